#include "checkpoint.hpp"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <losa/io/compressed.hpp>
#include <string>

#include "loops.hpp"

namespace llama {

using losa::MatrixView;
using losa::detail::quote_name;
using losa::detail::raise;
using losa::io::Tensor;

namespace {

constexpr std::string_view embedding_name = "model.embed_tokens.weight";
constexpr std::string_view head_name = "lm_head.weight";
constexpr std::string_view usual_prefix = "model.";

// Tiles of this many values are read at a time.
constexpr std::size_t tile_elements = std::size_t{1} << 16;

bool all_zero(const Tensor& tensor) {
  std::vector<float> row(tensor.cols());
  for (std::size_t r = 0; r < tensor.rows(); ++r) {
    losa::io::read_f32(tensor, MatrixView<float>(row.data(), 1, row.size()), {.first_row = r, .check_finite = false});
    if (std::ranges::any_of(row, [](float v) { return v != 0.0f; })) return false;
  }
  return true;
}

bool is_float(const Tensor& tensor) {
  using losa::io::Dtype;
  return tensor.dtype == Dtype::f32 || tensor.dtype == Dtype::bf16 || tensor.dtype == Dtype::f16 ||
         tensor.dtype == Dtype::f64;
}

/// Calls f(first row, rows of values) for a matrix of that size, tile by tile.
template <class F>
void for_value_tiles(std::size_t rows, std::size_t cols, losa::ExecutorRef executor, F&& f) {
  for_row_tiles(
      rows, cols, executor,
      [&](std::size_t begin, std::size_t end) {
        Matrix tile(end - begin, cols);
        f(begin, tile.view());
      },
      tile_elements);
}

bool holds(const losa::io::ShardedCheckpoint& files, const std::string& name) {
  return files.find(name) != nullptr || losa::io::is_compressed(files, name);
}

}  // namespace

std::string base_prefix(const losa::io::ShardedCheckpoint& files) {
  for (const char* prefix : {"", "model.model."})
    if (!holds(files, std::string(usual_prefix) + "norm.weight") && holds(files, std::string(prefix) + "norm.weight"))
      return prefix;
  return std::string(usual_prefix);
}

std::string head_prefix(const losa::io::ShardedCheckpoint& files) {
  const std::string plain(head_name), prefixed = std::string(usual_prefix) + plain;
  return !holds(files, plain) && holds(files, prefixed) ? std::string(usual_prefix) : std::string();
}

std::string usual_name(const std::string& name, const std::string& prefix, const std::string& head) {
  if (!head.empty() && name.starts_with(head + "lm_head.")) return name.substr(head.size());
  if (prefix == usual_prefix || !name.starts_with(prefix) || name.starts_with("lm_head.")) return name;
  return std::string(usual_prefix) + name.substr(prefix.size());
}

Checkpoint::Checkpoint(const std::filesystem::path& directory)
    : directory_(directory),
      config_(read_config(directory)),
      files_(directory.string()),
      prefix_(base_prefix(files_)),
      head_prefix_(head_prefix(files_)),
      embedding_(embedding_name) {
  check_names();
  if (config_.tied && !holds(embedding_name) && holds(head_name)) embedding_ = head_name;
  check_shapes();
  tie();
}

// ---- what is there --------------------------------------------------------------------------------------------------

std::string Checkpoint::in_file(std::string_view name) const {
  if (name == head_name) return head_prefix_ + std::string(name);
  if (!name.starts_with(usual_prefix)) return std::string(name);
  return prefix_ + std::string(name.substr(usual_prefix.size()));
}

bool Checkpoint::holds(std::string_view name) const { return llama::holds(files_, in_file(name)); }

Checkpoint::Stored Checkpoint::stored(std::string_view name) const {
  const std::string there = in_file(name);
  const Tensor* dense = files_.find(there);
  if (losa::io::is_compressed(files_, there)) {
    if (dense != nullptr)
      raise<losa::FileError>(*dense->file, ": tensor ", quote_name(there), ": is there compressed too");
    return {nullptr, losa::io::find_compressed(files_, there)};
  }
  if (dense != nullptr) return {dense, {}};
  missing(there);
}

/// Says which tensors are there that somebody may have meant.
void Checkpoint::missing(std::string_view name) const {
  const std::string_view module = name.substr(0, name.rfind('.') + 1);
  std::string like;
  std::size_t found = 0;
  for (const Tensor* tensor : files_.tensors()) {
    const std::string_view there = tensor->name;
    if (!there.ends_with(name) && !name.ends_with(there) && !there.starts_with(module)) continue;
    if (++found <= 3) like += (like.empty() ? "" : ", ") + quote_name(there);
  }
  if (name == head_name && like.empty() && holds(embedding_name))
    like = quote_name(in_file(embedding_name)) +
           ", but tie_word_embeddings of config.json does not say that it is the head";
  std::string told;
  try {
    static_cast<void>(files_.at(name));  // an index may say more of it
  } catch (const losa::FileError& error) {
    told = error.what();
  }
  raise<losa::FileError>(told, like.empty() ? "" : "; there is ", like, found > 3 ? ", ..." : "");
}

void Checkpoint::expect(std::string_view name, std::vector<std::size_t> shape) const {
  const Stored stored = this->stored(name);
  const Tensor& values = stored.values();
  std::vector<std::size_t> got = values.shape;
  if (stored.dense == nullptr) {
    got = {stored.parts.rows, stored.parts.cols};
    if (stored.parts.vector) got.erase(got.begin());
  }
  if (got != shape)
    raise<losa::FileError>(*values.file, ": tensor ", quote_name(name), ": config.json asks for ",
                           losa::detail::shape_text(shape), ", got ", losa::detail::shape_text(got));
  if (!is_float(values))
    raise<losa::FileError>(*values.file, ": tensor ", quote_name(values.name),
                           ": dtype must be F32, BF16, F16 or F64, got ", values.dtype_name);
}

/// Of a block that is used, a tensor that the architecture does not know would change the result, unless it is zero.
/// What belongs to blocks that config.json does not have is not needed.
void Checkpoint::check_names() const {
  const std::string prefix = prefix_ + "layers.";
  for (const Tensor* tensor : files_.tensors()) {
    std::string name = tensor->name;
    if (std::string owner = losa::io::compressed_owner(name); !owner.empty() && losa::io::is_compressed(files_, owner))
      name = std::move(owner);
    if (!name.starts_with(prefix)) continue;
    std::string_view rest = std::string_view(name).substr(prefix.size());
    std::size_t block = 0;
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), block);
    if (error != std::errc() || block >= config_.blocks) continue;
    rest.remove_prefix(static_cast<std::size_t>(end - rest.data()));
    if (!rest.starts_with('.')) continue;
    rest.remove_prefix(1);
    bool known = rest == "input_layernorm.weight" || rest == "post_attention_layernorm.weight" ||
                 rest == "self_attn.rotary_emb.inv_freq";
    std::string_view switched_off;  // the field of config.json that leaves this tensor out
    for (std::size_t which = 0; which < linears_per_block; ++which) {
      if (!rest.starts_with(linear_names[which])) continue;
      const std::string_view part = rest.substr(linear_names[which].size());
      known = known || part == ".weight" || (part == ".bias" && config_.has_bias(which));
      if (part == ".bias" && !known) switched_off = which <= output ? "attention_bias" : "mlp_bias";
    }
    if (known || (is_float(*tensor) && all_zero(*tensor))) continue;
    if (!switched_off.empty())
      raise<losa::FileError>(*tensor->file, ": tensor ", quote_name(tensor->name), ": config.json has no ",
                             switched_off, ", and its values are not 0");
    raise<losa::FileError>(*tensor->file, ": tensor ", quote_name(tensor->name),
                           ": is not part of the Llama architecture, and its values are not 0");
  }
}

void Checkpoint::check_shapes() const {
  expect(embedding_, {config_.vocabulary, config_.hidden});
  expect("model.norm.weight", {config_.hidden});
  if (!config_.tied) expect(head_name, {config_.vocabulary, config_.hidden});
  for (std::size_t b = 0; b < config_.blocks; ++b) {
    for (const char* norm : {"input_layernorm.weight", "post_attention_layernorm.weight"})
      expect(block_tensor(b, norm), {config_.hidden});
    for (std::size_t which = 0; which < linears_per_block; ++which) {
      const auto [out, in] = linear_shape(config_, which);
      expect(linear_tensor(b, which), {out, in});
      if (config_.has_bias(which)) expect(bias_tensor(b, which), {out});
    }
  }
}

/// A tied model whose file has a head of its own: some hold a copy of the embedding, others were trained apart. As
/// transformers 5.24 does, the values decide.
void Checkpoint::tie() {
  if (!config_.tied || embedding_ == head_name || !holds(head_name)) return;
  const Stored embedding = stored(embedding_), head = stored(head_name);
  if (embedding.dense != nullptr && head.dense != nullptr && embedding.dense->dtype == head.dense->dtype &&
      embedding.dense->shape == head.dense->shape && std::ranges::equal(embedding.dense->bytes, head.dense->bytes)) {
    losa::io::release_pages(embedding.dense->bytes);
    losa::io::release_pages(head.dense->bytes);
    return;
  }
  expect(head_name, {config_.vocabulary, config_.hidden});
  std::atomic<bool> same{true};
  for_value_tiles(config_.vocabulary, config_.hidden, {}, [&](std::size_t first, MatrixView<float> values) {
    if (!same) return;
    Matrix other(values.rows, values.cols);
    embedding.read(values, first);
    head.read(other.view(), first);
    if (!std::equal(values.data, values.data + values.size(), other.view().data)) same = false;
  });
  config_.tied = same;
}

bool Checkpoint::compressed(std::size_t block, std::size_t which) const {
  return losa::io::is_compressed(files_, in_file(linear_tensor(block, which)));
}

const Tensor& Checkpoint::linear_values(std::size_t block, std::size_t which) const {
  return stored(linear_tensor(block, which)).values();
}

// ---- values ---------------------------------------------------------------------------------------------------------

void Checkpoint::Stored::read(MatrixView<float> into, std::size_t first_row) const {
  if (dense != nullptr)
    losa::io::read_f32(*dense, into, {.first_row = first_row});
  else
    losa::io::read_compressed_rows(parts, first_row, into);
}

/// Lets go of the file's pages afterwards: who has read a matrix holds a copy.
void Checkpoint::read_rows(const Stored& stored, MatrixView<float> into, losa::ExecutorRef executor) const {
  for_row_tiles(
      into.rows, into.cols, executor,
      [&](std::size_t begin, std::size_t end) { stored.read(into.block(begin, 0, end - begin, into.cols), begin); },
      tile_elements);
  losa::io::release_pages(stored.values().bytes);
}

Matrix Checkpoint::read_matrix(std::string_view name, losa::ExecutorRef executor) const {
  Matrix matrix(config_.vocabulary, config_.hidden);
  read_rows(stored(name), matrix.view(), executor);
  return matrix;
}

std::vector<float> Checkpoint::read_vector(std::string_view name, std::size_t size) const {
  std::vector<float> vector(size);
  stored(name).read(MatrixView<float>(vector.data(), 1, size), 0);
  return vector;
}

Matrix Checkpoint::read_embedding(losa::ExecutorRef executor) const { return read_matrix(embedding_, executor); }
Matrix Checkpoint::read_head(losa::ExecutorRef executor) const {
  return config_.tied ? Matrix{} : read_matrix(head_name, executor);
}
std::vector<float> Checkpoint::read_final_norm() const { return read_vector("model.norm.weight", config_.hidden); }

BlockNorms Checkpoint::read_norms(std::size_t block) const {
  BlockNorms norms{read_vector(block_tensor(block, "input_layernorm.weight"), config_.hidden),
                   read_vector(block_tensor(block, "post_attention_layernorm.weight"), config_.hidden)};
  for (std::size_t which = 0; which < linears_per_block; ++which)
    if (config_.has_bias(which))
      norms.biases[which] = read_vector(bias_tensor(block, which), linear_shape(config_, which).first);
  return norms;
}

void Checkpoint::read_linear(std::size_t block, std::size_t which, MatrixView<float> into,
                             losa::ExecutorRef executor) const {
  read_rows(stored(linear_tensor(block, which)), into, executor);
}

void Checkpoint::read_embeddings(std::span<const Token> tokens, MatrixView<float> into) const {
  const Stored embedding = stored(embedding_);
  for (std::size_t t = 0; t < tokens.size(); ++t) embedding.read(into.block(t, 0, 1, into.cols), tokens[t]);
}

losa::PackedMatrix<float> Checkpoint::read_packed(std::size_t block, std::size_t which) const {
  const auto parts = stored(linear_tensor(block, which)).parts;
  auto packed = losa::io::read_compressed<float>(parts);
  losa::io::release_pages(parts.values->bytes);
  return packed;
}

losa::Mask Checkpoint::read_mask(std::size_t block, std::size_t which, losa::ExecutorRef executor) const {
  const Stored layer = stored(linear_tensor(block, which));
  if (layer.dense == nullptr) return layer.parts.mask();
  losa::Mask mask(layer.dense->rows(), layer.dense->cols());
  for_value_tiles(mask.rows(), mask.cols(), executor, [&](std::size_t first, MatrixView<float> values) {
    layer.read(values, first);
    for (std::size_t r = 0; r < values.rows; ++r)
      for (std::size_t c = 0; c < values.cols; ++c)
        if (values(r, c) != 0.0f) mask.set(first + r, c, true);
  });
  losa::io::release_pages(layer.dense->bytes);
  return mask;
}

std::size_t Checkpoint::zeros(std::size_t block, std::size_t which, losa::ExecutorRef executor) const {
  const Stored layer = stored(linear_tensor(block, which));
  if (layer.dense == nullptr) return layer.parts.rows * layer.parts.cols - layer.parts.kept;
  std::atomic<std::size_t> zeros{0};
  for_value_tiles(layer.dense->rows(), layer.dense->cols(), executor, [&](std::size_t first, MatrixView<float> values) {
    layer.read(values, first);
    zeros += static_cast<std::size_t>(std::count(values.data, values.data + values.size(), 0.0f));
  });
  losa::io::release_pages(layer.dense->bytes);
  return zeros;
}

}  // namespace llama
