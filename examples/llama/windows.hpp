#pragma once
// Where the windows of a training text start. Every pass cuts the text into windows that follow one another, from a
// random offset, and takes them in a random order, so that no token comes twice before almost all have come once.
// (Drawn with replacement, one pass of windows leaves out 1/e of the text: docs/results.md has what that costs.)
//
//   llama::ShuffledWindows windows(tokens.size(), 256, random);
//   std::size_t start = windows.start(i);                      // of window i of all passes, whichever is asked first

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <losa/core/error.hpp>
#include <losa/core/random.hpp>
#include <numeric>
#include <utility>
#include <vector>

namespace llama {

class ShuffledWindows {
 public:
  /// Windows of `context` out of `tokens` tokens. Throws losa::RangeError unless at least one fits.
  ShuffledWindows(std::size_t tokens, std::size_t context, losa::Random random) : context_(context), random_(random) {
    if (context == 0 || context > tokens)
      losa::detail::raise<losa::RangeError>("training needs at least one window of ", context, " tokens, got ", tokens);
    // As many as fit wherever a pass begins.
    const std::size_t n = std::max<std::size_t>(1, (tokens - (context - 1)) / context);
    order_.resize(n);
    offsets_ = std::min(context, tokens - n * context + 1);
  }

  std::size_t per_pass() const noexcept { return order_.size(); }

  /// Start of window i: a function of the constructor's arguments and i alone. O(1) within a pass, O(per_pass) for the
  /// first of another one.
  std::size_t start(std::uint64_t i) {
    const std::uint64_t pass = i / per_pass();
    if (pass != pass_) shuffle(pass);
    return offset_ + context_ * order_[static_cast<std::size_t>(i % per_pass())];
  }

 private:
  void shuffle(std::uint64_t pass) {
    std::uint64_t draw = pass * per_pass();  // one number for each window: one for the offset, the rest for the order
    offset_ = static_cast<std::size_t>(random_.below(offsets_, draw++));
    std::iota(order_.begin(), order_.end(), std::size_t{0});
    for (std::size_t i = per_pass(); i > 1; --i)
      std::swap(order_[i - 1], order_[static_cast<std::size_t>(random_.below(i, draw++))]);
    pass_ = pass;
  }

  std::size_t context_;
  losa::Random random_;
  std::size_t offsets_ = 1;  // at which a pass may begin
  std::size_t offset_ = 0;
  std::vector<std::size_t> order_;
  std::uint64_t pass_ = ~std::uint64_t{0};  // that offset_ and order_ belong to
};

}  // namespace llama
