#pragma once
// What an adaptation run did, step by step: the numbers that a person wants to see and a resumed run must not lose.

#include <cstdint>
#include <vector>

#include <losa/core/error.hpp>

namespace losa::inline v0 {

/// One schedule step. Vectors are per adapted linear layer (model order) unless said otherwise.
struct AdaptStep {
  double target = 0;                 // sparsity of the adapted layers together after this step
  std::vector<std::uint64_t> zeros;  // pruned weights
  std::vector<std::uint64_t> rank;   // of the adapter; empty if there are none
  std::vector<double> error;         // per block: reconstruction error on the pruned model so far, Eq. 6
  std::vector<double> rmi;           // blocks × blocks, row-major; empty if not asked for
  std::vector<double> importance;    // per block, from rmi; empty if not asked for

  template <class Visitor>
  void visit(Visitor& visitor) {
    visitor("target", target);
    visitor("zeros", zeros);
    visitor("rank", rank);
    visitor("error", error);
    visitor("rmi", rmi);
    visitor("importance", importance);
  }
};

struct AdaptReport {
  std::vector<AdaptStep> steps;
  std::vector<double> loss;                // per training step, mean over predicted tokens
  std::uint64_t trainable_parameters = 0;  // after the last step

  template <class Visitor>
  void visit(Visitor& visitor) {
    std::uint64_t count = steps.size();
    visitor("steps", count);
    steps.resize(count);
    for (std::size_t t = 0; t < steps.size(); ++t)
      visitor.group(detail::text("step.", t + 1, "."), [&] { steps[t].visit(visitor); });
    visitor("loss", loss);
    visitor("trainable_parameters", trainable_parameters);
  }
};

}  // namespace losa::inline v0
