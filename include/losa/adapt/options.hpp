#pragma once
// Options of the adaptation loop, and the callback that is told when its state is complete.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include <losa/adapter/lora_factors.hpp>
#include <losa/core/pattern.hpp>

namespace losa::inline v0 {

struct AdaptOptions {
  double sparsity = 0.5;          // of the adapted layers together; with `n_of_m` it must be 1 − N/M
  std::optional<NofM> n_of_m;     // else unstructured
  std::size_t steps = 5;          // of the schedule
  std::uint64_t train_steps = 0;  // in all; 0 = prune only, no adapters
  double early_share = 0.1;       // of train_steps that each step but the last gets (the paper's code: 0.1)
  LoraOptions lora;               // its rank is not used: the recipe shares out ranks
  double learning_rate = 2e-4;
  double warmup = 0.1;  // share of the training steps
  double weight_decay = 0;
  double clip = 1;                        // global norm of the gradients
  std::uint64_t sensitivity_batches = 8;  // for rules that need score curves
  bool report_rmi = false;  // measure RMI for the report even if the recipe does not ask for it (not with n_of_m)
  std::size_t report_context = 0;   // what only the report needs is measured on as many tokens of every calibration
                                    // sequence (0 = all): the blocks' errors, and RMI
  std::size_t tokens_per_step = 0;  // of a training batch, for progress only
};

/// Called where the state is complete; `due` at the end of a phase or before a stop, else after a pruned block or a
/// training step.
using Checkpoint = std::function<void(bool due)>;

/// Where the result goes as it becomes final: `begin` once, with the zeros of every layer, then `block` for every block
/// in order. When blocks are pruned once and not trained they are told of as they are pruned, so that a model larger
/// than memory can be written while it is made. In `block` the engine holds the final weights of that block.
struct Results {
  std::function<void(std::span<const std::size_t> zeros)> begin;
  std::function<void(std::size_t block)> block;
};

}  // namespace losa::inline v0
