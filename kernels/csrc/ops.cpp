// The march and the optimizer's step for CPU tensors: what PyTorch calls, and how the work is shared by threads.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <vector>

#include "march.h"
#include "parallel.h"

namespace sjc_fast {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

constexpr int64_t CHUNK = 1 << 20;  // samples held at once in the backward pass; a tile of an image is not split

// What this processor can run; with $SJC_FAST_PORTABLE set, what every processor can.
const Kernels& kernels() {
#if defined(__x86_64__)
  static const char* portable = std::getenv("SJC_FAST_PORTABLE");
  static const bool modern =
      !(portable && *portable) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (modern) return avx2_kernels;
#endif
  return baseline_kernels;
}

// Calls job(i) for i in [0, count), each thread taking the next one when it is free.
template <class F>
void for_each(int64_t count, const F& job) {
  std::atomic<int64_t> next{0};
  at::parallel_for(0, std::min<int64_t>(count, at::get_num_threads()), 1, [&](int64_t, int64_t) {
    for (int64_t i; (i = next.fetch_add(1)) < count;) job(i);
  });
}

// Tensors as the kernels want them, kept alive while they run.
struct Held {
  std::vector<Tensor> tensors;

  template <class T>
  T* operator()(const Tensor& x) {
    tensors.push_back(x.contiguous());
    return tensors.back().data_ptr<T>();
  }

  const float* operator()(const OptionalTensor& x) { return x ? (*this)(x->to(at::kFloat)) : nullptr; }
  const float* operator()(const Tensor& x) { return (*this).operator()<float>(x.to(at::kFloat)); }
};

Scene scene_of(
    Held& held, const Tensor& density, const Tensor& features, const Tensor& background, const Tensor& log_scale,
    const Tensor& c2w, const Tensor& fov, const Tensor& box, const OptionalTensor& asset, int64_t height, int64_t width,
    double step, double shift, bool sigmoid, double beta) {
  Scene s{};
  const int64_t channels = features.size(-1), padding = channels == 3 ? 0 : -channels & 3;
  s.density = held(density), s.background = held(background);
  s.features = held(padding ? at::constant_pad_nd(features, {0, padding}) : features);
  s.c2w = held(c2w), s.fov = held(fov), s.box = held(box);
  if (asset) s.asset = held.operator()<int64_t>(*asset);
  s.channels = channels, s.depth = density.size(-3), s.height = density.size(-2), s.width = density.size(-1);
  s.views = c2w.size(0), s.rows = height, s.columns = width;
  Tensor scales = at::empty({log_scale.numel()}, at::kFloat);
  for (int64_t i = 0; i < scales.numel(); ++i) scales[i] = std::exp(log_scale.reshape(-1)[i].item<float>());
  s.scales = held(scales);
  s.shift = shift, s.step = step, s.beta = beta;
  s.sigmoid = sigmoid, s.texture = background.dim() > 2;
  return s;
}

int64_t tiles_of(const Scene& s) {
  return int64_t(s.views) * ((s.rows + TILE - 1) / TILE) * ((s.columns + TILE - 1) / TILE);
}

// Features, depth, opacity, penalty, d_emptiness, slots, stop.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> march_forward(
    const Tensor& density, const Tensor& features, const Tensor& background, const Tensor& log_scale, const Tensor& c2w,
    const Tensor& fov, const Tensor& box, const OptionalTensor& asset, const OptionalTensor& empty, int64_t height,
    int64_t width, double step, double shift, bool sigmoid, double beta) {
  Held held;
  Scene scene = scene_of(
      held, density, features, background, log_scale, c2w, fov, box, asset, height, width, step, shift, sigmoid, beta);
  if (empty) scene.empty = held.operator()<uint8_t>(*empty);
  const auto real = density.options().dtype(at::kFloat), whole = density.options().dtype(at::kInt);
  const auto plane = [&](const at::TensorOptions& options) { return at::empty({scene.views, height, width}, options); };
  const Tensor image = at::empty({scene.views, scene.channels, height, width}, real);
  const Tensor depth = plane(real), opacity = plane(real), penalty = plane(real), d_emptiness = plane(real);
  const Tensor slots = plane(whole), stop = plane(whole);
  const Image out{image.data_ptr<float>(),   depth.data_ptr<float>(),       opacity.data_ptr<float>(),
                  penalty.data_ptr<float>(), d_emptiness.data_ptr<float>(), slots.data_ptr<int>(),
                  stop.data_ptr<int>()};
  for_each(tiles_of(scene), [&](int64_t tile) { kernels().forward(scene, out, tile); });
  return {image, depth, opacity, penalty, d_emptiness, slots, stop};
}

// Planes along z in `parts` runs of about as many samples each, counted as if a ray's samples were evenly spread.
std::vector<int> divide_planes(const Scene& scene, const Samples& samples, int64_t parts) {
  std::vector<double> load(scene.depth + 1, 0.);  // differences, then sums
  for (int64_t r = 0; r < samples.tiles * TILE * TILE; ++r) {
    const Ray& ray = samples.rays[r];
    if (!ray.samples) continue;
    const float near = ray.start[2] + ray.entry * ray.direction_voxels[2];
    const float far = near + ray.samples * scene.step * ray.direction_voxels[2];
    const int low = std::clamp<int>(std::min(near, far), 0, scene.depth - 1);
    const int high = std::clamp<int>(std::max(near, far), 0, scene.depth - 1);
    const double each = double(ray.samples) / (high - low + 1);
    load[low] += each, load[high + 1] -= each;
  }
  std::partial_sum(load.begin(), load.end(), load.begin());
  std::partial_sum(load.begin(), load.end(), load.begin());
  const double total = load[scene.depth - 1];
  std::vector<int> bounds{0};
  for (int z = 1; z < scene.depth; ++z) {
    if (load[z - 1] >= total * bounds.size() / parts) bounds.push_back(z);
  }
  bounds.push_back(scene.depth);
  return bounds;
}

// Adds the gradients of a chunk. Threads share the grids out, or the planes where there are fewer grids than threads;
// the order of the sums in a voxel is the same either way.
void backward_chunk(
    const Scene& scene, const Image& image, const Upstream& upstream, const Gradients& grads, int64_t grids,
    const Samples& samples, TileSums* sums) {
  for_each(samples.tiles, [&](int64_t i) { kernels().gradients(scene, image, upstream, samples, i, sums + i); });
  const int64_t threads = at::get_num_threads();
  const std::vector<int> bounds =
      grids < threads ? divide_planes(scene, samples, threads) : std::vector<int>{0, scene.depth};
  const int64_t parts = bounds.size() - 1;
  for_each(grids * parts, [&](int64_t i) {
    kernels().scatter(scene, upstream, samples, grads, i / parts, bounds[i % parts], bounds[i % parts + 1]);
  });
}

void march_backward(
    const Tensor& grad_density, const Tensor& grad_features, const Tensor& grad_texture, const Tensor& grad_log_scale,
    const Tensor& density, const Tensor& features, const Tensor& background, const Tensor& log_scale, const Tensor& c2w,
    const Tensor& fov, const Tensor& box, const OptionalTensor& asset, const Tensor& out_features,
    const Tensor& out_depth, const Tensor& out_opacity, const Tensor& d_emptiness, const Tensor& out_stop,
    const Tensor& v_features, const OptionalTensor& v_depth, const OptionalTensor& v_opacity, const Tensor& v_penalty,
    double step, double shift, bool sigmoid, double beta) {
  Held held;
  const int64_t height = out_features.size(2), width = out_features.size(3);
  const Scene scene = scene_of(
      held, density, features, background, log_scale, c2w, fov, box, asset, height, width, step, shift, sigmoid, beta);
  const Image image{const_cast<float*>(held(out_features)), const_cast<float*>(held(out_depth)),
                    const_cast<float*>(held(out_opacity)),  nullptr,
                    const_cast<float*>(held(d_emptiness)),  nullptr,
                    held.operator()<int>(out_stop)};
  const Upstream upstream{held(v_features), held(v_depth), held(v_opacity), held(v_penalty)};
  const Gradients grads{grad_density.data_ptr<float>(), grad_features.data_ptr<float>()};

  constexpr int64_t RAYS = TILE * TILE;
  const int64_t tiles = tiles_of(scene);
  std::vector<Ray> rays(tiles * RAYS);
  for_each(tiles, [&](int64_t tile) { kernels().rays(scene, image, tile, rays.data() + tile * RAYS); });

  // Tiles go through in chunks of which all samples fit a buffer; each ray's begin at a multiple of eight.
  std::vector<int64_t> chunks{0};
  int64_t filled = 0, most = 0;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    int64_t wanted = 0;
    for (int64_t i = tile * RAYS; i < (tile + 1) * RAYS; ++i) wanted += (rays[i].samples + 7) / 8 * 8;
    if (filled && filled + wanted > CHUNK) chunks.push_back(tile), filled = 0;
    for (int64_t i = tile * RAYS; i < (tile + 1) * RAYS; ++i) {
      rays[i].first = filled;
      filled += (rays[i].samples + 7) / 8 * 8;
    }
    most = std::max(most, filled);
  }
  chunks.push_back(tiles);

  const Tensor at_density = at::empty({most}, grad_density.options());
  const int64_t padded = grad_features.size(-1), grids = grad_log_scale.numel(), texels = 16 * padded;
  const Tensor at_features = at::empty({most * (sigmoid ? padded : 1)}, grad_density.options());
  const Tensor textures = at::zeros({tiles, texels}, grad_density.options());
  std::vector<TileSums> sums(tiles);
  for (int64_t i = 0; i < tiles; ++i) sums[i].texture = textures.data_ptr<float>() + i * texels;
  for (size_t c = 0; c + 1 < chunks.size(); ++c) {
    const Samples samples{
        rays.data() + chunks[c] * RAYS, chunks[c + 1] - chunks[c], at_density.data_ptr<float>(),
        at_features.data_ptr<float>()};
    backward_chunk(scene, image, upstream, grads, grids, samples, sums.data() + chunks[c]);
  }
  std::vector<double> of_scale(grids, 0.);
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t grid = scene.asset ? scene.asset[rays[t * RAYS].view] : 0;
    of_scale[grid] += sums[t].log_scale;
    float* texture = grad_texture.data_ptr<float>() + grid * texels;
    for (int64_t i = 0; i < texels; ++i) texture[i] += sums[t].texture[i];
  }
  for (int64_t grid = 0; grid < grids; ++grid) grad_log_scale.data_ptr<float>()[grid] += of_scale[grid];
}

void optimizer_step(
    const Tensor& parameter, const Tensor& gradient, const Tensor& first, const Tensor& second, const Tensor& rate,
    const Tensor& step, double beta1, double beta2, double epsilon, bool adam) {
  if (!parameter.numel()) return;
  const double number = step.item<double>();
  Update u{};
  u.parameter = parameter.data_ptr<float>(), u.gradient = gradient.data_ptr<float>();
  u.first = first.data_ptr<float>(), u.second = second.data_ptr<float>();
  u.row = parameter.dim() ? parameter.size(-1) : 1, u.gradient_row = gradient.dim() ? gradient.size(-1) : 1;
  u.beta2 = beta2, u.rest1 = 1 - beta1, u.rest2 = 1 - beta2, u.epsilon = epsilon, u.adam = adam;
  u.rate = rate.item<double>() / -std::expm1(number * std::log(beta1));
  u.root = std::sqrt(-std::expm1(number * std::log(beta2)));
  if (u.row == u.gradient_row) u.row = u.gradient_row = 1;
  const int64_t rows = parameter.numel() / u.row;
  at::parallel_for(0, rows, 1 << 14, [&](int64_t from, int64_t to) { kernels().update(u, from, to); });
}

}  // namespace

TORCH_LIBRARY(sjc_fast_cpu, m) {
  m.def(
      "march_forward(Tensor density, Tensor features, Tensor background, Tensor log_scale, Tensor c2w, Tensor fov, "
      "Tensor box, Tensor? asset, Tensor? empty, int height, int width, float step, float density_shift, bool sigmoid, "
      "float beta) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "march_backward(Tensor(a!) grad_density, Tensor(b!) grad_features, Tensor(c!) grad_texture, "
      "Tensor(d!) grad_log_scale, Tensor density, Tensor features, Tensor background, Tensor log_scale, Tensor c2w, "
      "Tensor fov, Tensor box, Tensor? asset, Tensor out_features, Tensor out_depth, Tensor out_opacity, "
      "Tensor d_emptiness, Tensor out_stop, Tensor v_features, Tensor? v_depth, Tensor? v_opacity, Tensor v_penalty, "
      "float step, float density_shift, bool sigmoid, float beta) -> ()");
  m.def(
      "optimizer_step(Tensor(a!) parameter, Tensor(b!) gradient, Tensor(c!) first, Tensor(d!) second, Tensor rate, "
      "Tensor step, float beta1, float beta2, float epsilon, bool adam) -> ()");
}

TORCH_LIBRARY_IMPL(sjc_fast_cpu, CPU, m) {
  m.impl("march_forward", march_forward);
  m.impl("march_backward", march_backward);
  m.impl("optimizer_step", optimizer_step);
}

}  // namespace sjc_fast
