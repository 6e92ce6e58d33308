#include "model.hpp"

#include <algorithm>

#include "blas.hpp"
#include "checkpoint.hpp"
#include "loops.hpp"
#include "norm.hpp"

namespace llama {

using losa::MatrixView;
using losa::detail::raise;

namespace {

// Below this share of zeros a packed product is slower than a dense one on every machine that was tried, and takes no
// less memory.
bool worth_packing(std::size_t zeros, std::size_t size) { return zeros * 10 >= size; }

losa::Mask non_zero(MatrixView<const float> w) {
  losa::Mask mask(w.rows, w.cols);
  for (std::size_t r = 0; r < w.rows; ++r)
    for (std::size_t c = 0; c < w.cols; ++c)
      if (w(r, c) != 0.0f) mask.set(r, c, true);
  return mask;
}

Linear load_linear(const Checkpoint& checkpoint, std::size_t block, std::size_t which, Weights weights,
                   losa::ExecutorRef executor) {
  const auto [out, in] = linear_shape(checkpoint.config(), which);
  Linear linear;
  if (checkpoint.compressed(block, which)) {
    linear.packed = checkpoint.read_packed(block, which);
    linear.zeros = out * in - linear.packed->kept();
    if (weights != Weights::dense && worth_packing(linear.zeros, out * in)) return linear;
    linear.dense.emplace(out, in);
    linear.packed->to_dense(linear.dense->view());
    linear.packed.reset();
    return linear;
  }
  linear.dense.emplace(out, in);
  checkpoint.read_linear(block, which, linear.dense->view(), executor);
  linear.zeros =
      static_cast<std::size_t>(std::count(linear.dense->cview().data, linear.dense->cview().data + out * in, 0.0f));
  if (weights != Weights::sparse || !worth_packing(linear.zeros, out * in)) return linear;
  linear.packed = losa::pack(linear.dense->cview(), non_zero(linear.dense->cview()), executor);
  linear.dense.reset();
  return linear;
}

class InferenceLinears final : public BlockLinears {
 public:
  InferenceLinears(const std::vector<Linear>& linears, losa::ExecutorRef executor)
      : linears_(linears), executor_(executor) {}
  void forward(LinearIndex which, MatrixView<const float> x, MatrixView<float> y) override {
    linears_[which].forward(x, y, executor_);
  }
  void backward(LinearIndex, MatrixView<const float>, MatrixView<const float>, MatrixView<float>) override {
    raise<losa::UnsupportedError>("a model that was loaded for inference has no backward pass");
  }

 private:
  const std::vector<Linear>& linears_;
  losa::ExecutorRef executor_;
};

}  // namespace

void Linear::forward(MatrixView<const float> x, MatrixView<float> y, losa::ExecutorRef executor) const {
  if (dense)
    multiply(x, dense->cview(), y, executor);
  else
    losa::spmm(*packed, x, y, executor);
}

Model Model::load(const std::filesystem::path& directory, const ModelOptions& options, losa::ExecutorRef executor) {
  const Checkpoint checkpoint(directory);
  Model model;
  model.config_ = checkpoint.config();
  model.executor_ = executor;
  model.rope_ = Rope(model.config_.head_dim, model.config_.rope_theta, 0, model.config_.rope_scaling);
  model.embedding_ = checkpoint.read_embedding(executor);
  model.head_ = checkpoint.read_head(executor);
  model.norm_ = checkpoint.read_final_norm();
  for (std::size_t b = 0; b < model.config_.blocks; ++b) {
    Block block{checkpoint.read_norms(b), {}};
    for (std::size_t which = 0; which < linears_per_block; ++which)
      block.linears.push_back(load_linear(checkpoint, b, which, options.weights, executor));
    model.blocks_.push_back(std::move(block));
  }
  return model;
}

std::size_t Model::linear_bytes() const {
  std::size_t sum = 0;
  for (const Block& block : blocks_)
    for (const Linear& linear : block.linears) sum += linear.bytes();
  return sum;
}

std::size_t Model::bytes() const {
  std::size_t sum = linear_bytes() + embedding_.bytes() + head_.bytes() + norm_.size() * sizeof(float);
  for (const Block& block : blocks_) {
    sum += (block.norms.attention.size() + block.norms.mlp.size()) * sizeof(float);
    for (const auto& bias : block.norms.biases) sum += bias.size() * sizeof(float);
  }
  return sum;
}

std::size_t Model::linear_weights() const {
  std::size_t sum = 0;
  for (std::size_t which = 0; which < linears_per_block; ++which) {
    const auto [out, in] = linear_shape(config_, which);
    sum += out * in * config_.blocks;
  }
  return sum;
}

std::size_t Model::linear_zeros() const {
  std::size_t sum = 0;
  for (const Block& block : blocks_)
    for (const Linear& linear : block.linears) sum += linear.zeros;
  return sum;
}

void Model::embed(std::span<const Token> tokens, Matrix& hidden) const {
  hidden.reshape(tokens.size(), config_.hidden);
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    if (tokens[t] >= config_.vocabulary)
      raise<losa::RangeError>("Model: token ", t, " is ", tokens[t], ", outside the vocabulary of ",
                              config_.vocabulary);
    std::ranges::copy(embedding_.view().row(tokens[t]), hidden.view().row(t).begin());
  }
}

void Model::finish(Matrix& hidden) const {
  scratch_.scale_x.resize(hidden.rows());
  rms_norm(hidden.cview(), norm_, config_.norm_epsilon, hidden.view(), scratch_.scale_x, executor_);
}

void Model::forward(std::span<const Token> tokens, std::size_t context, Matrix& hidden) const {
  if (context == 0 || context > config_.positions || tokens.size() % context != 0)
    raise<losa::RangeError>("Model::forward: ", tokens.size(), " tokens in sequences of ", context,
                            "; a sequence holds 1 to ", config_.positions, " tokens");
  rope_.extend(context);
  embed(tokens, hidden);
  const BlockContext c{&config_, &rope_, executor_};
  for (const Block& block : blocks_) {
    InferenceLinears linears(block.linears, executor_);
    block_forward(c, block.norms, linears, context, hidden.cview(), hidden.view(), scratch_);
  }
  finish(hidden);
}

void Model::decode(std::span<const Token> tokens, KvCache& cache, Matrix& hidden) const {
  if (tokens.size() > cache.capacity() - cache.size())
    raise<losa::RangeError>("Model::decode: ", cache.size(), " and ", tokens.size(), " tokens exceed the cache's ",
                            cache.capacity());
  rope_.extend(cache.capacity());
  embed(tokens, hidden);
  const BlockContext c{&config_, &rope_, executor_};
  for (std::size_t b = 0; b < blocks_.size(); ++b) {
    InferenceLinears linears(blocks_[b].linears, executor_);
    block_decode(c, blocks_[b].norms, linears, cache, b, hidden.view(), scratch_);
  }
  cache.advance(tokens.size());
  finish(hidden);
}

void Model::head(MatrixView<const float> hidden, MatrixView<float> logits) const {
  multiply(hidden, head_weight(), logits, executor_);
}

std::vector<LinearSummary> inspect(const std::filesystem::path& directory, losa::ExecutorRef executor) {
  const Checkpoint checkpoint(directory);
  std::vector<LinearSummary> out;
  for (std::size_t b = 0; b < checkpoint.config().blocks; ++b)
    for (std::size_t which = 0; which < linears_per_block; ++which) {
      const auto [rows, cols] = linear_shape(checkpoint.config(), which);
      LinearSummary one{.name = linear_tensor(b, which),
                        .dtype = checkpoint.linear_values(b, which).dtype_name,
                        .out = rows,
                        .in = cols,
                        .zeros = checkpoint.zeros(b, which, executor),
                        .compressed = checkpoint.compressed(b, which)};
      one.name.resize(one.name.size() - std::string_view(".weight").size());
      if (one.compressed) {
        const auto packed = checkpoint.read_packed(b, which);
        one.kept_zeros = static_cast<std::size_t>(std::ranges::count(packed.values(), 0.0f));
      }
      out.push_back(std::move(one));
    }
  return out;
}

}  // namespace llama
