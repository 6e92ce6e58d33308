#include "checkpoint.hpp"

#include <algorithm>
#include <charconv>
#include <losa/io/compressed.hpp>
#include <string>

#include "loops.hpp"

namespace llama {

using losa::MatrixView;
using losa::detail::raise;
using losa::io::Tensor;

namespace {

void expect(const Tensor& tensor, std::vector<std::size_t> shape) {
  if (tensor.shape != shape)
    raise<losa::FileError>(*tensor.file, ": tensor ", losa::detail::quote_name(tensor.name), ": config.json asks for ",
                           losa::detail::shape_text(shape), ", got ", losa::detail::shape_text(tensor.shape));
  using losa::io::Dtype;
  if (tensor.dtype != Dtype::f32 && tensor.dtype != Dtype::bf16 && tensor.dtype != Dtype::f16)
    raise<losa::FileError>(*tensor.file, ": tensor ", losa::detail::quote_name(tensor.name),
                           ": dtype must be F32, BF16 or F16, got ", tensor.dtype_name);
}

/// Lets go of the file's pages afterwards: who has read a matrix holds a copy.
void read_rows(const Tensor& tensor, MatrixView<float> into, losa::ExecutorRef executor) {
  for_row_tiles(
      into.rows, into.cols, executor,
      [&](std::size_t begin, std::size_t end) {
        losa::io::read_f32(tensor, into.block(begin, 0, end - begin, into.cols), {.first_row = begin});
      },
      std::size_t{1} << 16);
  losa::io::release_pages(tensor.bytes);
}

}  // namespace

Checkpoint::Checkpoint(const std::filesystem::path& directory)
    : directory_(directory), config_(read_config(directory)), files_(directory.string()) {
  check_names();
  check_shapes();
}

void Checkpoint::check_names() const {
  constexpr std::string_view prefix = "model.layers.";
  constexpr std::string_view parts[] = {".weight", ".compressed", ".bitmask", ".row_offsets", ".shape", ".bias"};
  for (const Tensor* tensor : files_.tensors()) {
    std::string_view name = tensor->name;
    if (!name.starts_with(prefix)) {
      if (name.ends_with(".compressed") || name.ends_with(".bitmask"))
        raise<losa::FileError>(*tensor->file, ": tensor ", losa::detail::quote_name(name),
                               ": only the blocks' linear layers may be compressed");
      continue;
    }
    name.remove_prefix(prefix.size());
    std::size_t block = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), block);
    if (error != std::errc() || block >= config_.blocks)
      raise<losa::FileError>(*tensor->file, ": tensor ", losa::detail::quote_name(tensor->name),
                             ": config.json has num_hidden_layers ", config_.blocks);
    name.remove_prefix(static_cast<std::size_t>(end - name.data()));
    bool known = name == ".input_layernorm.weight" || name == ".post_attention_layernorm.weight" ||
                 name == ".self_attn.rotary_emb.inv_freq";
    for (std::size_t which = 0; which < linears_per_block; ++which) {
      if (!name.starts_with('.') || !name.substr(1).starts_with(linear_names[which])) continue;
      const std::string_view part = name.substr(1 + linear_names[which].size());
      known = known || std::ranges::find(parts, part) != std::end(parts);
      if (part != ".bias" || config_.has_bias(which)) continue;
      raise<losa::FileError>(*tensor->file, ": tensor ", losa::detail::quote_name(tensor->name),
                             ": config.json has no ", which <= output ? "attention_bias" : "mlp_bias");
    }
    if (!known)
      raise<losa::FileError>(*tensor->file, ": tensor ", losa::detail::quote_name(tensor->name),
                             ": is not part of the Llama architecture");
  }
}

void Checkpoint::check_shapes() const {
  expect(files_.at("model.embed_tokens.weight"), {config_.vocabulary, config_.hidden});
  expect(files_.at("model.norm.weight"), {config_.hidden});
  if (!config_.tied) expect(files_.at("lm_head.weight"), {config_.vocabulary, config_.hidden});
  if (const Tensor* head = files_.find("lm_head.weight"); config_.tied && head != nullptr) {  // some files hold a copy
    const Tensor& embedding = files_.at("model.embed_tokens.weight");
    if (head->shape != embedding.shape || head->dtype != embedding.dtype ||
        !std::ranges::equal(head->bytes, embedding.bytes))
      raise<losa::FileError>(*head->file, ": tensor \"lm_head.weight\" is not the embedding, which config.json's ",
                             "tie_word_embeddings says");
  }
  for (std::size_t b = 0; b < config_.blocks; ++b) {
    for (const char* norm : {"input_layernorm.weight", "post_attention_layernorm.weight"})
      expect(files_.at(block_tensor(b, norm)), {config_.hidden});
    for (std::size_t which = 0; which < linears_per_block; ++which) {
      const auto [out, in] = linear_shape(config_, which);
      const std::string name = linear_tensor(b, which);
      if (config_.has_bias(which)) expect(files_.at(bias_tensor(b, which)), {out});
      if (!compressed(b, which)) {
        expect(files_.at(name), {out, in});
        continue;
      }
      if (files_.find(name) != nullptr)
        raise<losa::FileError>(*files_.at(name).file, ": tensor ", losa::detail::quote_name(name),
                               ": is there compressed too");
      const auto stored = losa::io::find_compressed(files_, name);
      if (stored.rows != out || stored.cols != in)
        raise<losa::FileError>(*stored.bitmask->file, ": tensor ", losa::detail::quote_name(name),
                               ": config.json asks for ", out, " × ", in, ", got ", stored.rows, " × ", stored.cols);
      expect(*stored.values, {stored.kept});
    }
  }
}

bool Checkpoint::compressed(std::size_t block, std::size_t which) const {
  return losa::io::is_compressed(files_, linear_tensor(block, which));
}

const Tensor& Checkpoint::linear_values(std::size_t block, std::size_t which) const {
  const std::string name = linear_tensor(block, which);
  return compressed(block, which) ? *losa::io::find_compressed(files_, name).values : files_.at(name);
}

Matrix Checkpoint::read_matrix(std::string_view name, std::size_t rows, std::size_t cols,
                               losa::ExecutorRef executor) const {
  Matrix matrix(rows, cols);
  read_rows(files_.at(name), matrix.view(), executor);
  return matrix;
}

std::vector<float> Checkpoint::read_vector(std::string_view name, std::size_t size) const {
  std::vector<float> vector(size);
  losa::io::read_f32(files_.at(name), std::span<float>(vector));
  return vector;
}

Matrix Checkpoint::read_embedding(losa::ExecutorRef executor) const {
  return read_matrix("model.embed_tokens.weight", config_.vocabulary, config_.hidden, executor);
}
Matrix Checkpoint::read_head(losa::ExecutorRef executor) const {
  return config_.tied ? Matrix{} : read_matrix("lm_head.weight", config_.vocabulary, config_.hidden, executor);
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
  if (compressed(block, which))
    read_packed(block, which).to_dense(into);
  else
    read_rows(files_.at(linear_tensor(block, which)), into, executor);
}

void Checkpoint::read_embeddings(std::span<const Token> tokens, MatrixView<float> into) const {
  const Tensor& embedding = files_.at("model.embed_tokens.weight");
  for (std::size_t t = 0; t < tokens.size(); ++t)
    losa::io::read_f32(embedding, into.block(t, 0, 1, into.cols), {.first_row = tokens[t]});
}

losa::PackedMatrix<float> Checkpoint::read_packed(std::size_t block, std::size_t which) const {
  auto stored = losa::io::read_compressed<float>(files_, linear_tensor(block, which));
  losa::io::release_pages(linear_values(block, which).bytes);
  if (std::ranges::find(stored.values(), 0.0f) == stored.values().end()) return stored;
  losa::Mask mask = stored.mask();
  std::vector<float> values;
  for (std::size_t r = 0; r < stored.rows(); ++r)
    stored.for_each_kept(r, [&](std::size_t c, std::size_t k) {
      const float value = stored.values()[k];
      if (value == 0.0f)
        mask.set(r, c, false);
      else
        values.push_back(value);
    });
  return losa::PackedMatrix<float>::from_parts(mask.rows(), mask.cols(), mask.words(), std::span<const float>(values));
}

}  // namespace llama
