// Windows and weights of the bilinear filter, operation by operation those of axis.py.

struct Window {  // of one output pixel on one axis: source px first .. first + count - 1
    int first, count, rising;
    double u, step, half, top, norm;
};

static __device__ double running_sum(const Window& w, int taps) {
    double k = taps, rising = w.rising;
    if (taps <= w.rising) return k * (1.0 + w.u) + w.step * (0.5 * k * (k - 1.0));
    return w.top + ((k - rising) * (1.0 - w.u) - w.step * (0.5 * k * (k - 1.0) - w.half));
}

static __device__ Window window_of(double origin, double scale, int n, int i) {
    Window w;
    double support = scale > 1.0 ? scale : 1.0;
    w.step = 1.0 / support;
    double center = origin + (i + 0.5) * scale;
    int begin = max((int)(center - support + 0.5), 0);
    int end = min((int)(center + support + 0.5), n);
    w.first = begin;
    w.count = end - begin;
    w.rising = min((int)(center + 0.5), end) - begin;
    w.u = (begin - center + 0.5) * w.step;
    double rising = w.rising;
    w.half = 0.5 * rising * (rising - 1.0);
    w.top = rising * (1.0 + w.u) + w.step * w.half;
    double taps = w.count;
    w.norm = 16384.0 / (w.top + ((taps - rising) * (1.0 - w.u) - w.step * (0.5 * taps * (taps - 1.0) - w.half)));
    return w;
}

// Rounded sum of the weights of the first taps, at most all.
static __device__ int sum_of(const Window& w, int taps) {
    return taps <= 0 ? 0 : (int)(running_sum(w, min(taps, w.count)) * w.norm + 0.5);
}

// Weight of tap k; 0 outside the window.
static __device__ short weight_of(const Window& w, int k) { return (short)(sum_of(w, k + 1) - sum_of(w, k)); }
