#pragma once
// The blocks of a model that is being adapted: norms, dense f32 masters of the linear layers, and the layers' state.
// Either all of them are in memory, or one block at a time: then the others' weights are the checkpoint's own, which is
// mapped, or lie in a scratch file if pruning rewrote them, and their masks lie there too.
//
//   llama::BlockStore<losa::MaskedLora> store(checkpoint, skip, "out/.partial", pool);     // "" = all in memory
//   auto& block = store.hold(3);                                                           // its weights are there

#include <cstddef>
#include <losa/adapt/linear.hpp>
#include <losa/io/scratch_file.hpp>
#include <optional>
#include <regex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "block.hpp"
#include "checkpoint.hpp"
#include "matrix.hpp"

namespace llama {

/// Which zeros of the model's layers stay zeros, whatever mask comes.
enum class KeepMask {
  none,
  stored,  // those of masks that the file stores
  zeros,   // all
};

template <losa::Adapter A>
class BlockStore {
 public:
  static constexpr std::size_t none = ~std::size_t{0};

  struct Block {
    BlockNorms norms;
    std::vector<Matrix> weights;                  // the seven dense masters; empty while parked
    std::vector<losa::AdaptedLinear<A>> adapted;  // those that are not skipped
    std::vector<std::size_t> adapted_at;          // per linear layer: where in `adapted`, none if skipped

    /// True if the masters are the checkpoint's own weights.
    bool original() const {
      for (const auto& layer : adapted)
        if (layer.rewritten()) return false;
      return true;
    }
  };

  /// `skip` is searched in names like "model.layers.0.mlp.up_proj". `scratch` is the directory for what does not stay
  /// in memory; empty: everything stays. Throws losa::RangeError for a bad expression or one that skips every layer,
  /// losa::FileError.
  BlockStore(const Checkpoint& checkpoint, const std::string& skip, KeepMask keep, const std::string& scratch,
             losa::ExecutorRef executor)
      : checkpoint_(checkpoint), executor_(executor) {
    if (!scratch.empty()) scratch_.emplace(scratch);
    std::regex expression;
    try {
      expression = std::regex(skip, std::regex::ECMAScript);
    } catch (const std::regex_error&) {
      losa::detail::raise<losa::RangeError>("skip: \"", skip, "\" is no regular expression");
    }
    std::size_t adapted = 0;
    for (std::size_t b = 0; b < checkpoint.config().blocks; ++b) {
      Block block{checkpoint.read_norms(b), {}, {}, std::vector<std::size_t>(linears_per_block, none)};
      for (std::size_t which = 0; which < linears_per_block; ++which) {
        const std::string name = block_tensor(b, linear_names[which]);
        if (!skip.empty() && std::regex_search(name, expression)) continue;
        const auto [out, in] = linear_shape(checkpoint.config(), which);
        block.adapted_at[which] = block.adapted.size();
        auto& layer = block.adapted.emplace_back(name, linear_input[which], losa::MatrixView<float>(nullptr, out, in));
        ++adapted;
        if (keep == KeepMask::zeros || (keep == KeepMask::stored && checkpoint.compressed(b, which)))
          layer.restrict_to(checkpoint.read_mask(b, which, executor));
      }
      blocks_.push_back(std::move(block));
      parked_.emplace_back(linears_per_block);
      if (scratch_) park(b);
    }
    if (adapted == 0) losa::detail::raise<losa::RangeError>("skip: \"", skip, "\" skips every layer");
    for (std::size_t b = 0; !scratch_ && b < blocks_.size(); ++b) load(b);
  }

  std::size_t size() const noexcept { return blocks_.size(); }
  /// One block at a time.
  bool parks() const noexcept { return scratch_.has_value(); }
  losa::io::ScratchFile& scratch() { return *scratch_; }

  /// What block b always has: norms, and of its layers what a parked one knows.
  Block& operator[](std::size_t b) { return blocks_[b]; }
  /// Block b with its weights; with one block at a time they are gone when another one is held.
  Block& hold(std::size_t b) {
    if (scratch_ && held_ != b) {
      if (held_ != none) park(held_);
      held_ = none;
      load(b);
      held_ = b;
    }
    return blocks_[b];
  }

 private:
  /// Where a parked layer's masks and master lie; a master that was never rewritten is the checkpoint's.
  struct Parked {
    std::size_t mask_at = none;
    std::size_t support_at = none;
    std::size_t weight_at = none;
    bool weight_saved = false;
    std::uint64_t changes = 0;  // of the layer when it was written
  };

  void load(std::size_t b) {
    Block& block = blocks_[b];
    for (std::size_t which = 0; which < linears_per_block; ++which) {
      const auto [out, in] = linear_shape(checkpoint_.config(), which);
      Matrix& weight = block.weights.emplace_back(out, in);
      Parked& parked = parked_[b][which];
      if (parked.weight_saved)
        scratch_->read(parked.weight_at, std::as_writable_bytes(std::span(weight.view().data, out * in)));
      else
        checkpoint_.read_linear(b, which, weight.view(), executor_);
      if (block.adapted_at[which] == none) continue;
      auto& layer = block.adapted[block.adapted_at[which]];
      typename losa::AdaptedLinear<A>::Masks masks;
      if (!scratch_)
        masks = layer.park();
      else
        masks = {read_mask(parked.mask_at, out, in), read_mask(parked.support_at, out, in)};
      layer.unpark(weight.view().data, std::move(masks), executor_);
    }
  }

  void park(std::size_t b) {
    Block& block = blocks_[b];
    for (std::size_t which = 0; which < linears_per_block; ++which) {
      if (block.adapted_at[which] == none) continue;
      auto& layer = block.adapted[block.adapted_at[which]];
      Parked& parked = parked_[b][which];
      const auto masks = layer.park();
      if (layer.changes() == parked.changes) continue;
      write_mask(parked.mask_at, masks.mask);
      if (parked.support_at == none) write_mask(parked.support_at, masks.support);
      if (layer.rewritten()) {
        const auto bytes = std::as_bytes(std::span(block.weights[which].view().data, layer.weight.size()));
        if (parked.weight_at == none) parked.weight_at = scratch_->reserve(bytes.size());
        scratch_->write(parked.weight_at, bytes);
        parked.weight_saved = true;
      }
      parked.changes = layer.changes();
    }
    block.weights.clear();
    block.weights.shrink_to_fit();
  }

  void write_mask(std::size_t& at, const losa::Mask& mask) {
    if (mask.size() == 0) return;
    if (at == none) at = scratch_->reserve(mask.bytes());
    scratch_->write(at, std::as_bytes(mask.words()));
  }
  /// Empty if none was written.
  losa::Mask read_mask(std::size_t at, std::size_t out, std::size_t in) const {
    if (at == none) return {};
    losa::Mask mask(out, in);
    scratch_->read(at, std::as_writable_bytes(mask.words()));
    return mask;
  }

  const Checkpoint& checkpoint_;
  losa::ExecutorRef executor_;
  std::optional<losa::io::ScratchFile> scratch_;
  std::vector<Block> blocks_;
  std::vector<std::vector<Parked>> parked_;  // per block and linear layer
  std::size_t held_ = none;
};

}  // namespace llama
