// Saliency over the graph of cells: saliency_graph.py, operation by operation. One block of 256 threads per image, one thread per cell.

#include "saliency_logistic.cuh"

typedef unsigned char u8;

#define GRID 16
#define CELLS 256
#define EDGE 60
#define RING 24

struct Constants {
    float light_scale, rough_scale, usual_step, least_step, reach_color, reach_place, link_color, link_floor;
    float contrast_place, ground_weight, slope, object_scale, least_sigma, most_sigma, tiny;
};

// What the threads of a block share.
struct Board {
    float colors[4][CELLS];
    float work[CELLS];
    float values[CELLS];
    float across[EDGE * EDGE];
    Levels levels;
};

static __device__ float block_sum(float value, float* work) {
    int t = threadIdx.x;
    work[t] = value;
    __syncthreads();
    for (int half = CELLS / 2; half; half /= 2) {
        if (t < half) work[t] += work[t + half];
        __syncthreads();
    }
    float result = work[0];
    __syncthreads();
    return result;
}

static __device__ float block_min(float value, float* work) {
    int t = threadIdx.x;
    work[t] = value;
    __syncthreads();
    for (int half = CELLS / 2; half; half /= 2) {
        if (t < half) work[t] = min(work[t], work[t + half]);
        __syncthreads();
    }
    float result = work[0];
    __syncthreads();
    return result;
}

static __device__ float stretch(float value, float least_spread, float* work) {
    float low = block_min(value, work), high = -block_min(-value, work);
    return (value - low) * (1.0f / max(high - low, least_spread));
}

static __device__ float sharpen(float value, float slope, Board& board) {
    board.levels.counts[threadIdx.x] = 0;
    __syncthreads();
    atomicAdd(&board.levels.counts[(int)(value * 255.0f + 0.5f)], 1);
    __syncthreads();
    float middle = class_middle(board.levels, CELLS);
    return logistic(slope * (value - middle));
}

static __device__ float square_distance(const Board& board, int i, int j) {
    float l = board.colors[0][i] - board.colors[0][j], a = board.colors[1][i] - board.colors[1][j];
    float b = board.colors[2][i] - board.colors[2][j], r = board.colors[3][i] - board.colors[3][j];
    return (l * l + a * a) + (b * b + r * r);
}

static __device__ bool on_border(int i) {
    int row = i / GRID, column = i % GRID;
    return row == 0 || row == GRID - 1 || column == 0 || column == GRID - 1;
}

// The p-th border cell, in reading order, and back.
static __device__ int border_cell(int p) {
    if (p < GRID) return p;
    if (p >= EDGE - GRID) return CELLS - EDGE + p;
    return (1 + (p - GRID) / 2) * GRID + (p - GRID) % 2 * (GRID - 1);
}

static __device__ int border_rank(int i) {
    int row = i / GRID;
    if (row == 0) return i;
    if (row == GRID - 1) return i - CELLS + EDGE;
    return GRID + 2 * (row - 1) + (i % GRID ? 1 : 0);
}

// The k-th neighbour of cell i on the two rings around it, or -1; k runs in reading order without the centre.
static __device__ int neighbour(int i, int k) {
    int at = k < RING / 2 ? k : k + 1, row = i / GRID + at / 5 - 2, column = i % GRID + at % 5 - 2;
    return row < 0 || row >= GRID || column < 0 || column >= GRID ? -1 : row * GRID + column;
}

// Stretch the weighted colours so that adjacent cells are `usual_step` apart on average.
static __device__ void even_out(const float* feature, const Constants& c, Board& board) {
    int i = threadIdx.x;
    float scales[4] = {c.light_scale, 1.0f, 1.0f, c.rough_scale};
    for (int f = 0; f < 4; f++) board.colors[f][i] = feature[f * CELLS + i] * scales[f];
    __syncthreads();
    const int ahead[4] = {12, 15, 16, 17};  // right; lower left, lower, lower right
    float total = 0;
    for (int k = 0; k < 4; k++) {
        int j = neighbour(i, ahead[k]);
        if (j >= 0) total += sqrtf(square_distance(board, i, j));
    }
    float scale = c.usual_step / max(block_sum(total, board.work) / 930.0f, c.least_step);
    for (int f = 0; f < 4; f++) board.colors[f][i] *= scale;
    __syncthreads();
}

static __device__ float place_square(int i, int j) {
    float v = (float)(i / GRID - j / GRID) * (float)(1.0 / GRID), u = (float)(i % GRID - j % GRID) * (float)(1.0 / GRID);
    return v * v + u * u;
}

static __device__ float ground_weight(const Constants& c, const Board& board) {
    int i = threadIdx.x;
    float area = 0, edge = 0;
    for (int j = 0; j < CELLS; j++) {
        float reach = decay(square_distance(board, i, j) * c.reach_color + place_square(i, j) * c.reach_place);
        area += reach;
        if (on_border(j)) edge += reach;
    }
    return c.ground_weight * (1.0f - decay(edge * edge / area * 0.5f));
}

static __device__ float contrast(const Constants& c, float ground, Board& board) {
    int i = threadIdx.x;
    board.values[i] = ground;
    __syncthreads();
    float total = 0;
    for (int j = 0; j < CELLS; j++)
        total += sqrtf(square_distance(board, i, j)) * decay(place_square(i, j) * c.contrast_place) * board.values[j];
    __syncthreads();
    return total;
}

// Sum of weight * value over the neighbours of this thread's cell: the rings in order, then the border cells in order.
static __device__ float pull(float value, const float* near, Board& board) {
    int i = threadIdx.x;
    board.values[i] = value;
    __syncthreads();
    float total = 0;
#pragma unroll
    for (int k = 0; k < RING; k++) {
        int j = neighbour(i, k);
        if (j >= 0) total += near[k] * board.values[j];
    }
    if (on_border(i)) {
        float edge = 0;
        int rank = border_rank(i);
        for (int q = 0; q < EDGE; q++) edge += board.across[q * EDGE + rank] * board.values[border_cell(q)];
        total += edge;
    }
    __syncthreads();
    return total;
}

// Average the cues of like neighbours, weight likeness^4, three times.
static __device__ float even_cues(float cue, const float* near, Board& board) {
    int i = threadIdx.x;
    float weight = 1.0f;
#pragma unroll
    for (int k = 0; k < RING; k++) {
        float square = near[k] * near[k];
        if (neighbour(i, k) >= 0) weight += square * square;
    }
    for (int round = 0; round < 3; round++) {
        board.values[i] = cue;
        __syncthreads();
#pragma unroll
        for (int k = 0; k < RING; k++) {
            int j = neighbour(i, k);
            float square = near[k] * near[k];
            if (j >= 0) cue += (square * square) * board.values[j];
        }
        cue = cue / weight;
        __syncthreads();
    }
    return cue;
}

static __device__ void link_border(const Constants& c, Board& board) {
    for (int at = threadIdx.x; at < EDGE * EDGE; at += CELLS) {
        int i = border_cell(at / EDGE), j = border_cell(at % EDGE);
        bool apart = abs(i / GRID - j / GRID) > 2 || abs(i % GRID - j % GRID) > 2;
        board.across[at] = apart ? decay(square_distance(board, i, j) * c.link_color) : 0.0f;
    }
    __syncthreads();
}

// Conjugate gradient steps from x.
static __device__ float minimise(float figure, float ground, float degree, const float* near, int steps, float x,
                                 Board& board) {
    float diagonal = (degree + ground) + figure;
    float rest = figure - (diagonal * x - pull(x, near, board));
    float scaled = rest / diagonal, way = scaled, size = block_sum(rest * scaled, board.work);
    for (int step = 0; step < steps; step++) {
        float moved = diagonal * way - pull(way, near, board);
        float length = size / max(block_sum(way * moved, board.work), 1e-20f);
        x += length * way;
        rest -= length * moved;
        scaled = rest / diagonal;
        float new_size = block_sum(rest * scaled, board.work);
        way = scaled + (new_size / max(size, 1e-20f)) * way;
        size = new_size;
    }
    return x;
}

static __device__ float object_prior(float saliency, const Constants& c, Board& board) {
    float at_y = ((float)(threadIdx.x / GRID) + 0.5f) * (float)(1.0 / GRID);
    float at_x = ((float)(threadIdx.x % GRID) + 0.5f) * (float)(1.0 / GRID);
    float weight = saliency * saliency, scale = 1.0f / max(block_sum(weight, board.work), c.tiny);
    float y = block_sum(weight * at_y, board.work) * scale, x = block_sum(weight * at_x, board.work) * scale;
    float off_y = (at_y - y) * (at_y - y), off_x = (at_x - x) * (at_x - x);
    float tall = sqrtf(block_sum(weight * off_y, board.work) * scale) * c.object_scale;
    float wide = sqrtf(block_sum(weight * off_x, board.work) * scale) * c.object_scale;
    tall = min(max(tall, c.least_sigma), c.most_sigma);
    wide = min(max(wide, c.least_sigma), c.most_sigma);
    tall = 0.5f / (tall * tall);
    wide = 0.5f / (wide * wide);
    return decay(off_y * tall + off_x * wide);
}

static __device__ float figure_weight(float cue, float prior, const Constants& c, Board& board) {
    float value = stretch(stretch(cue, c.tiny, board.work) * prior, c.tiny, board.work);
    return sharpen(value, c.slope, board);
}

extern "C" __global__ void __launch_bounds__(256)
    saliency_graph_solve(const float* __restrict__ features, const Constants* __restrict__ constants,
                         const float* __restrict__ center, int cue, int first_steps, int more_steps,
                         u8* __restrict__ out) {
    __shared__ Board board;
    int i = threadIdx.x;
    const float* feature = features + (long long)blockIdx.x * 6 * CELLS;
    Constants c = *constants;
    even_out(feature, c, board);
    float cues = stretch(feature[5 * CELLS + i], 4.0f, board.work);
    if (cue == 0) cues += stretch(feature[4 * CELLS + i], 4.0f, board.work);
    cues = stretch(cues, c.tiny, board.work);
    float ground = ground_weight(c, board);
    if (cue == 2) cues = contrast(c, ground, board);
    float near[RING];
#pragma unroll
    for (int k = 0; k < RING; k++) {
        int j = neighbour(i, k);
        near[k] = j >= 0 ? decay(square_distance(board, i, j) * c.link_color) : 0.0f;
    }
    link_border(c, board);
    cues = even_cues(cues, near, board);
#pragma unroll
    for (int k = 0; k < RING; k++) {
        int at = k < RING / 2 ? k : k + 1;
        bool touches = abs(at / 5 - 2) < 2 && abs(at % 5 - 2) < 2;
        if (touches && neighbour(i, k) >= 0) near[k] += c.link_floor;
    }
    float degree = pull(1.0f, near, board);
    float figure = figure_weight(cues, center[i], c, board);
    float x = figure / ((figure + ground) + c.tiny);
    x = minimise(figure, ground, degree, near, first_steps, x, board);
    float saliency = stretch(x, c.tiny, board.work);
    float prior = object_prior(saliency, c, board);
    cues = stretch(cues, c.tiny, board.work);
    figure = figure_weight((cues + cues) + saliency, prior, c, board);
    x = minimise(figure, ground, degree, near, more_steps, x, board);
    x = stretch(x, c.tiny, board.work);
    out[blockIdx.x * CELLS + i] = (u8)(int)(x * 255.0f + 0.5f);
}
