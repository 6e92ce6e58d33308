#pragma once
// How per-column statistics are cut into tasks: fixed ranges of columns, each summed over all tokens in order, so that
// no sum depends on how many threads there are.

#include <algorithm>
#include <cstddef>
#include <string_view>

#include <losa/core/error.hpp>
#include <losa/core/executor.hpp>
#include <losa/core/view.hpp>

namespace losa::inline v0::detail {

// Four cache lines of floats per token and task.
inline constexpr std::size_t columns_per_task = 64;

/// Runs f(first, last) over all columns in tasks of fixed shape.
template <class Function>
void for_column_ranges(const ExecutorRef& executor, std::size_t cols, Function&& f) {
  executor.parallel_for((cols + columns_per_task - 1) / columns_per_task, [&](std::size_t task) {
    f(task * columns_per_task, std::min(cols, (task + 1) * columns_per_task));
  });
}

/// Throws ShapeError unless a batch has `expected` columns.
inline void expect_columns(std::string_view where, std::size_t expected, std::size_t got) {
  if (got != expected) raise<ShapeError>(where, ": a batch must have ", expected, " columns, got ", got);
}

/// Throws ShapeError unless what is merged has the same size.
inline void expect_mergeable(std::string_view where, std::size_t mine, std::size_t theirs) {
  if (mine != theirs) raise<ShapeError>(where, ": cannot merge statistics over ", theirs, " into those over ", mine);
}

}  // namespace losa::inline v0::detail
