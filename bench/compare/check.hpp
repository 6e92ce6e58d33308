#pragma once
// Whether a contender computes the product at all: its results against sums in double. Of many tokens eight are looked
// at, of a weight gradient 64 rows.

#include <cstddef>
#include <string>
#include <vector>

#include "contender.hpp"

namespace compare {

class Reference {
 public:
  Reference(const Layer& layer, Op op, const Operands& operands);

  /// The largest error in y, in units of the results' root mean square; NaN if a result is.
  double error(const float* y) const;
  /// Results that were not looked at do not count; this many did.
  std::size_t outputs() const { return want_.size(); }

 private:
  std::size_t cols_ = 0;
  std::vector<std::size_t> rows_;  // of y
  std::vector<double> want_;       // (rows_, cols_)
  std::vector<char> counts_;       // which of them; empty = all
  double scale_ = 1;
};

/// The error beyond which a contender with weights of this type is wrong rather than rounded.
double tolerance(const std::string& type);

}  // namespace compare
