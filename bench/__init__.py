"""Throughput, quality, peers, the demo and a training example; `python -m figureground.bench VERB`."""
