// What the march's C++ files tell each other: plain pointers and numbers. Mathematics: kernels/march/__init__.py.
#pragma once

#include <stdint.h>

namespace sjc_fast {

constexpr int TILE = 8;  // pixels a side

// Voxel grids of one shape, cameras, and how to march; all tensors contiguous float32. There is one grid, or [G] of
// them.
struct Scene {
  const float* density;                // [D, H, W]
  const float* features;               // [D, H, W, C], C padded to groups of four where it is not 3
  const float* background;             // [C, 4, 4] if texture, else [V, C]
  const int64_t* asset;                // [V] the grid of each view; null: there is one
  const float* scales;                 // exp(log_scale) of each grid
  const float* c2w;                    // [V, 4, 4]
  const float* fov;                    // [V] degrees
  const float* box;                    // [2, 3]
  const uint8_t* empty;                // [D / 8 + 1, H / 8 + 1, W / 8 + 1]: bricks that may be skipped; null: none
  int channels, depth, height, width;  // of the grid
  int views, rows, columns;            // of the images
  float scale;                         // of the one grid that is looked at
  float shift, step, beta;
  bool sigmoid, texture;
};

// What the forward pass writes, and the backward pass reads.
struct Image {
  float* features;  // [V, C, h, w]
  float* depth;     // [V, h, w] and so on
  float* opacity;
  float* penalty;      // sum of log(1 + beta w)
  float* d_emptiness;  // sum of w beta / (1 + beta w)
  int32_t* slots;      // slots of the ray's length
  int32_t* stop;       // one more than the last sample that was lit
};

struct Upstream {
  const float* features;  // [V, C, h, w]
  const float* depth;     // [V, h, w] or null
  const float* opacity;   // [V, h, w] or null
  const float* penalty;   // [V], of each slot's log(1 + beta w)
};

// A ray: its samples lie at (start + t * direction_voxels) in voxels, t = entry + k * step.
struct Ray {
  float start[3], direction_voxels[3], direction[3];
  float entry, length;
  int32_t view, pixel;
  int32_t inner_from, inner_to;  // samples [from, to) whose cells have all their corners in the grid
  int32_t samples;               // that the backward pass walks
  int64_t first;                 // its place among the samples of a chunk
};

// Between the two halves of the backward pass: gradients at the samples of a chunk of tiles.
struct Samples {
  Ray* rays;  // [tiles, TILE * TILE]
  int64_t tiles;
  float* density;   // [samples] dL/d(raw density)
  float* features;  // [samples] weight where features count, for raw features; dL/d(raw) of each sample for colors,
                    // [samples / 8, groups of channels, 8, 4]
};

struct Gradients {
  float* density;   // [D, H, W] of each grid, added to
  float* features;  // [D, H, W, 4 groups] likewise
};

// What a tile of an image adds to texture [y, x, channel] and log-scale.
struct TileSums {
  float* texture;  // [4, 4, 4 groups]
  double log_scale;
};

// An optimizer's step over a range of numbers; see kernels/adamax/__init__.py.
struct Update {
  float* parameter;
  float* gradient;
  float* first;
  float* second;
  int64_t row, gradient_row;           // numbers in a row; the gradient's may be padded
  float beta2, rest1, rest2, epsilon;  // rests: 1 - beta
  float rate, root;                    // lr / (1 - beta1^step), sqrt(1 - beta2^step)
  bool adam;
};

// One instruction set's code.
struct Kernels {
  // Images are cut into tiles of TILE x TILE pixels, numbered by view, row, column.
  void (*forward)(const Scene&, const Image&, int64_t tile);
  // Rays of a tile, with their `samples`; `first` is left to the caller. Beyond the image: pixel -1, no samples.
  void (*rays)(const Scene&, const Image&, int64_t tile, Ray* rays);
  // Gradients at the samples of a tile of the chunk.
  void (*gradients)(const Scene&, const Image&, const Upstream&, const Samples&, int64_t tile, TileSums*);
  // Samples to voxels of the planes [from, to) along z of a grid, ray by ray in order.
  void (*scatter)(const Scene&, const Upstream&, const Samples&, const Gradients&, int64_t grid, int from, int to);
  void (*update)(const Update&, int64_t from, int64_t to);
};

extern const Kernels baseline_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels;
#endif

}  // namespace sjc_fast
