// Saliency over the graph of cells: saliency_graph.py, operation by operation. One block of 256 threads per image, one thread per cell.

#include "saliency_logistic.cuh"

typedef unsigned char u8;

#define GRID 16
#define CELLS 256
#define EDGE 60
#define RING 24
#define REACHES (2 * GRID + 2)

struct Constants {
    float light_scale, rough_scale, usual_step, least_step, reach_color, reach_place, link_color, link_floor;
    float contrast_place, ground_weight, slope, object_scale, least_spread, most_spread, most_tilt, tiny, walk_color;
    float walk_least, walk_weight, look_weight, look_share, doubt, warm_scale, warm_first, warm_second;
};

// What the threads of a block share.
struct Board {
    float colors[4][CELLS];
    float work[CELLS];
    float padded[CELLS + 2 * REACHES];  // values of the cells, zeros before and after: links from outside are zero
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

// The step to the k-th neighbour.
static __device__ int ahead(int k) {
    int at = k < RING / 2 ? k : k + 1;
    return (at / 5 - 2) * GRID + at % 5 - 2;
}

// Stretch the weighted colours so that adjacent cells are `usual_step` apart on average.
static __device__ void even_out(const float* feature, const Constants& c, Board& board) {
    int i = threadIdx.x;
    float scales[4] = {c.light_scale, 1.0f, 1.0f, c.rough_scale};
    for (int f = 0; f < 4; f++) board.colors[f][i] = feature[f * CELLS + i] * scales[f];
    __syncthreads();
    const int half_ring[4] = {12, 15, 16, 17};  // right; lower left, lower, lower right
    float total = 0;
    for (int k = 0; k < 4; k++) {
        int j = neighbour(i, half_ring[k]);
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

// How much two cells belong together.
static __device__ float reach(int i, int j, const Constants& c, const Board& board) {
    return decay(square_distance(board, i, j) * c.reach_color + place_square(i, j) * c.reach_place);
}

// 4.5 (1 - exp(-b^2 / 2)), b the boundary connectivity of this thread's cell.
static __device__ float ground_weight(float edge, float area, const Constants& c) {
    return c.ground_weight * (1.0f - decay(edge * edge / area * 0.5f));
}

// The sum of values over cells of the same look as this thread's, and of reaches to the border, less where values are high.
static __device__ float look_around(float value, float& edge, const Constants& c, Board& board) {
    int i = threadIdx.x;
    board.padded[REACHES + i] = value;
    __syncthreads();
    float total = 0;
    edge = 0;
    for (int j = 0; j < CELLS; j++) {
        float r = reach(i, j, c, board);
        total += (r * r) * board.padded[REACHES + j];
        if (on_border(j)) edge += r * (1.0f - c.doubt * board.padded[REACHES + j]);
    }
    __syncthreads();
    return total;
}

static __device__ float contrast(const Constants& c, float ground, Board& board) {
    int i = threadIdx.x;
    board.padded[REACHES + i] = ground;
    __syncthreads();
    float total = 0;
    for (int j = 0; j < CELLS; j++)
        total += sqrtf(square_distance(board, i, j)) * decay(place_square(i, j) * c.contrast_place) * board.padded[REACHES + j];
    __syncthreads();
    return total;
}

// Sum of weight * value over the neighbours of this thread's cell: the rings in order, then, if asked for, the border cells in order.
static __device__ float pull(float value, const float* near, bool across, Board& board) {
    int i = threadIdx.x;
    board.padded[REACHES + i] = value;
    __syncthreads();
    float total = 0;
#pragma unroll
    for (int k = 0; k < RING; k++) total += near[k] * board.padded[REACHES + i + ahead(k)];
    if (across && on_border(i)) {
        float edge = 0;
        int rank = border_rank(i);
        for (int q = 0; q < EDGE; q++) edge += board.across[q * EDGE + rank] * board.padded[REACHES + border_cell(q)];
        total += edge;
    }
    __syncthreads();
    return total;
}

// Average the cues of like neighbours, weight likeness^4, three times.
static __device__ float even_cues(float cue, const float* near, Board& board) {
    float weight = 1.0f;
#pragma unroll
    for (int k = 0; k < RING; k++) {
        float square = near[k] * near[k];
        weight += square * square;
    }
    for (int round = 0; round < 3; round++) {
        board.padded[REACHES + threadIdx.x] = cue;
        __syncthreads();
        float total = 0;
#pragma unroll
        for (int k = 0; k < RING; k++) {
            float square = near[k] * near[k];
            total += (square * square) * board.padded[REACHES + threadIdx.x + ahead(k)];
        }
        cue = (cue + total) / weight;
        __syncthreads();
    }
    return cue;
}

// Whether the k-th neighbour of cell i is one of the eight nearest and exists.
static __device__ bool touches(int i, int k) {
    int at = k < RING / 2 ? k : k + 1;
    return abs(at / 5 - 2) < 2 && abs(at % 5 - 2) < 2 && neighbour(i, k) >= 0;
}

static __device__ void link_border(const Constants& c, Board& board) {
    for (int at = threadIdx.x; at < EDGE * EDGE; at += CELLS) {
        int i = border_cell(at / EDGE), j = border_cell(at % EDGE);
        bool apart = abs(i / GRID - j / GRID) > 2 || abs(i % GRID - j % GRID) > 2;
        board.across[at] = apart ? decay(square_distance(board, i, j) * c.link_color) : 0.0f;
    }
    __syncthreads();
}

// Conjugate gradient steps on (diagonal - W) x = target, from x.
static __device__ float minimise(float target, float diagonal, const float* near, bool across, int steps, float x,
                                 Board& board) {
    float rest = target - (diagonal * x - pull(x, near, across, board));
    float scaled = rest / diagonal, way = scaled, size = block_sum(rest * scaled, board.work);
    for (int step = 0; step < steps; step++) {
        float moved = diagonal * way - pull(way, near, across, board);
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

// How long a random walk from this thread's cell takes to be absorbed by a twin of a border cell, stretched.
static __device__ float walk_time(int steps, const Constants& c, Board& board) {
    int i = threadIdx.x;
    float near[RING], sink = on_border(i) ? 1.0f : 0.0f;
#pragma unroll
    for (int k = 0; k < RING; k++) {
        int j = neighbour(i, k);
        near[k] = j >= 0 ? decay(sqrtf(square_distance(board, i, j)) * c.walk_color) : 0.0f;
        if (touches(i, k)) near[k] += c.walk_least;
    }
    float degree = pull(1.0f, near, false, board);
    float total = (degree + pull(sink, near, false, board)) + sink;
    return stretch(minimise(total, total, near, false, steps, 1.0f, board), c.tiny, board.work);
}

static __device__ float object_prior(float saliency, const Constants& c, Board& board) {
    float at_y = ((float)(threadIdx.x / GRID) + 0.5f) * (float)(1.0 / GRID);
    float at_x = ((float)(threadIdx.x % GRID) + 0.5f) * (float)(1.0 / GRID);
    float weight = saliency * saliency, scale = 1.0f / max(block_sum(weight, board.work), c.tiny);
    float off_y = at_y - block_sum(weight * at_y, board.work) * scale;
    float off_x = at_x - block_sum(weight * at_x, board.work) * scale;
    scale *= c.object_scale;
    float tall = min(max(block_sum(weight * (off_y * off_y), board.work) * scale, c.least_spread), c.most_spread);
    float wide = min(max(block_sum(weight * (off_x * off_x), board.work) * scale, c.least_spread), c.most_spread);
    float most = sqrtf(tall * wide) * c.most_tilt;
    float tilt = min(max(block_sum(weight * (off_y * off_x), board.work) * scale, -most), most);
    float shrink = 0.5f / (tall * wide - tilt * tilt);
    float square = ((off_y * off_y) * wide + (off_x * off_x) * tall) - 2.0f * tilt * (off_y * off_x);
    return decay(max(square * shrink, 0.0f));
}

static __device__ float figure_weight(float cue, float prior, const Constants& c, Board& board) {
    float value = stretch(stretch(cue, c.tiny, board.work) * prior, c.tiny, board.work);
    return sharpen(value, c.slope, board);
}

extern "C" __global__ void __launch_bounds__(256, 2)
    saliency_graph_solve(const float* __restrict__ features, const Constants* __restrict__ constants,
                         const float* __restrict__ center, int cue, int walk_steps, int first_steps, int more_steps,
                         u8* __restrict__ out) {
    __shared__ Board board;
    int i = threadIdx.x;
    const float* feature = features + (long long)blockIdx.x * 6 * CELLS;
    const Constants& c = *constants;
    if (i < REACHES) board.padded[i] = board.padded[REACHES + CELLS + i] = 0;
    even_out(feature, c, board);
    float warm = min(max((feature[CELLS + i] - 128.0f) * c.warm_scale, -1.0f), 1.0f);
    float cues = stretch(feature[5 * CELLS + i], 4.0f, board.work);
    if (cue == 0) cues += stretch(feature[4 * CELLS + i], 4.0f, board.work);
    cues = stretch(cues, c.tiny, board.work);
    float area = 0, looks = 0, edge = 0;
    for (int j = 0; j < CELLS; j++) {
        float r = reach(i, j, c, board);
        area += r;
        looks += r * r;
        if (on_border(j)) edge += r;
    }
    float ground = ground_weight(edge, area, c);
    if (cue == 2) cues = contrast(c, ground, board);
    float walk = walk_time(walk_steps, c, board);
    float near[RING];
#pragma unroll
    for (int k = 0; k < RING; k++) {
        int j = neighbour(i, k);
        near[k] = j >= 0 ? decay(square_distance(board, i, j) * c.link_color) : 0.0f;
    }
    link_border(c, board);
    cues = stretch(even_cues(cues, near, board), c.tiny, board.work);
    walk *= -block_min(-cues, board.work) * c.walk_weight;  // where no cue differs there is no figure
#pragma unroll
    for (int k = 0; k < RING; k++)
        if (touches(i, k)) near[k] += c.link_floor;
    float degree = pull(1.0f, near, true, board);
    float figure = figure_weight(cues + c.warm_first * warm, center[i], c, board);
    float x = figure / ((figure + ground) + c.tiny);
    x = minimise(figure, (degree + ground) + figure, near, true, first_steps, x, board);
    float saliency = stretch(x, c.tiny, board.work);
    float prior = object_prior(saliency, c, board);
    float own = stretch(look_around(saliency, edge, c, board) / looks, c.tiny, board.work);
    ground = ground_weight(edge, area, c);
    figure = figure_weight(((cues + saliency) + (c.look_weight * own + walk)) + c.warm_second * warm, prior, c, board);
    x = minimise(figure, (degree + ground) + figure, near, true, more_steps, x, board);
    x = stretch(x, c.tiny, board.work);
    own = stretch(look_around(x, edge, c, board) / looks, c.tiny, board.work);
    x = stretch((1.0f - c.look_share) * x + c.look_share * own, c.tiny, board.work);
    out[blockIdx.x * CELLS + i] = (u8)(int)(x * 255.0f + 0.5f);
}
