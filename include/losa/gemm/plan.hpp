#pragma once
// A product of a packed matrix with so many tokens, as an engine with threads and memory of its own calls it:
//
//   const losa::Plan plan = losa::plan(packed, tokens, {.threads = n});
//   std::byte* memory = …;                                  // plan.bytes() of them, of the engine
//   for (std::size_t phase = 0; phase < plan.phases(); ++phase) {
//     // thread i of n, all at the same time:
//     for (std::size_t task = i; task < plan.tasks(phase); task += n)
//       plan.run(phase, task, {.x = x, .y = y}, plan.workspace(memory, i));
//     // all threads wait for one another: the engine's barrier
//   }
//
// A callback that has no barrier uses the plan's own, in the same memory: plan.prepare(memory) once, then every thread
// calls plan.run_thread(i, {.x = x, .y = y}, memory), again and again.
//
// run() and run_thread() throw nothing, allocate nothing and start no thread. Tasks of a phase may run in any order, on
// any threads; the result is the same to the bit. A plan is a copy of pointers to the matrix, which has to stay where
// it is. Products of one to eight tokens with Multiply have one phase. spmm, spmm_transposed and sddmm are this loop.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <string_view>
#include <type_traits>

#include <losa/core/error.hpp>
#include <losa/core/view.hpp>
#include <losa/gemm/backend.hpp>
#include <losa/gemm/formats.hpp>
#include <losa/gemm/operation.hpp>
#include <losa/gemm/registry.hpp>
#include <losa/gemm/scratch.hpp>
#include <losa/gemm/thread_barrier.hpp>

namespace losa::inline v0 {

struct PlanOptions {
  std::size_t threads = 1;           // that run its tasks at the same time
  const Backend* backend = nullptr;  // null = default_backend()
};

/// A packed matrix of any format: rows, cols, and what kernels read.
template <class Matrix>
concept Packed = requires(const Matrix& matrix) {
  { matrix.rows() } -> std::convertible_to<std::size_t>;
  { matrix.cols() } -> std::convertible_to<std::size_t>;
  { matrix.kept() } -> std::convertible_to<std::size_t>;
  detail::Operand<decltype(matrix.weights())>{matrix.layout(), matrix.weights()};
};

/// Of a Product: Multiply, MultiplyTransposed or Sample.
template <class Product>
class Plan {
 public:
  /// Throws RangeError if there are no threads; UnsupportedError if LOSA_ISA names a backend that is not here.
  template <Packed Matrix>
  Plan(const Matrix& matrix, std::size_t tokens, const PlanOptions& options = {})
      : shape_{.tokens = tokens, .threads = options.threads},
        rows_(matrix.rows()),
        cols_(matrix.cols()),
        kept_(matrix.kept()) {
    if (options.threads == 0) detail::raise<RangeError>("plan: threads must be at least 1, got 0");
    using WeightsType = decltype(matrix.weights());
    const Backend& backend = options.backend == nullptr ? default_backend() : *options.backend;
    ::new (static_cast<void*>(operand_)) detail::Operand<WeightsType>{matrix.layout(), matrix.weights()};
    operation_ = backend.template operation<Product, WeightsType>();
    needs_ = operation_.needs(operand_, shape_);
  }

  std::size_t tokens() const noexcept { return shape_.tokens; }
  std::size_t threads() const noexcept { return shape_.threads; }
  std::size_t phases() const noexcept { return needs_.phases; }
  /// Tasks of a phase; may be none.
  std::size_t tasks(std::size_t phase) const noexcept { return operation_.tasks(operand_, shape_, phase); }
  Rounding rounding() const noexcept { return operation_.rounding(operand_, shape_); }

  /// Bytes of memory that a call needs, at any alignment, with any content.
  std::size_t bytes() const noexcept {
    return detail::cache_line + barrier_bytes + shared_bytes() + shape_.threads * own_bytes();
  }
  /// Of them, those for all threads, and those for each: for who keeps them apart. Both aligned to 64.
  std::size_t shared_bytes() const noexcept { return detail::round_up(needs_.shared, detail::cache_line); }
  std::size_t own_bytes() const noexcept { return detail::round_up(needs_.own, detail::cache_line); }
  /// What a thread below threads() hands to run(), in memory of bytes().
  Workspace workspace(void* memory, std::size_t thread) const noexcept {
    std::byte* const shared = aligned(memory) + barrier_bytes;
    return {.shared = shared, .own = shared + shared_bytes() + thread * own_bytes()};
  }

  /// Throws ShapeError unless the arguments have the plan's tokens and the matrix's rows and columns.
  void expect(const Multiply& arguments,
              std::string_view where = "run") const requires std::same_as<Product, Multiply> {
    expect_operand(where, "x", arguments.x, cols_);
    expect_operand(where, "y", arguments.y, rows_);
    if (!arguments.bias.empty() && arguments.bias.size() != rows_)
      detail::raise<ShapeError>(where, ": bias must have ", rows_, " elements, got ", arguments.bias.size());
  }
  void expect(const MultiplyTransposed& arguments,
              std::string_view where = "run") const requires std::same_as<Product, MultiplyTransposed> {
    expect_operand(where, "g", arguments.g, rows_);
    expect_operand(where, "dx", arguments.dx, cols_);
  }
  void expect(const Sample& arguments, std::string_view where = "run") const requires std::same_as<Product, Sample> {
    expect_operand(where, "g", arguments.g, rows_);
    expect_operand(where, "x", arguments.x, cols_);
    if (arguments.values.size() != kept_)
      detail::raise<ShapeError>(where, ": values must have ", kept_, " elements, got ", arguments.values.size());
    if (!arguments.base.empty() && arguments.base.size() != kept_)
      detail::raise<ShapeError>(where, ": base must have ", kept_, " elements, got ", arguments.base.size());
  }

  /// Task `task` of a phase, once all of the phase before have ended. `arguments` are those that expect() accepts, the
  /// same in every task of a call; two tasks that run at the same time have workspaces of different threads.
  void run(std::size_t phase, std::size_t task, const Product& arguments, Workspace workspace) const noexcept {
    operation_.run(operand_, shape_, phase, task, arguments, workspace);
  }

  /// Makes the barrier of run_thread() in memory of bytes(), before any thread enters.
  void prepare(void* memory) const noexcept { ::new (static_cast<void*>(aligned(memory))) detail::ThreadBarrier(); }
  /// What thread `thread` of threads() does of a call, all of which have to enter at about the same time. Returns when
  /// its part of the last phase is done, which the others' may not be.
  void run_thread(std::size_t thread, const Product& arguments, void* memory) const noexcept {
    const Workspace own = workspace(memory, thread);
    for (std::size_t phase = 0; phase < phases(); ++phase) {
      if (phase != 0 && threads() > 1)
        std::launder(reinterpret_cast<detail::ThreadBarrier*>(aligned(memory)))->wait(threads());
      const std::size_t end = tasks(phase);
      for (std::size_t task = thread; task < end; task += threads()) run(phase, task, arguments, own);
    }
  }

 private:
  static constexpr std::size_t barrier_bytes = detail::cache_line;

  static std::byte* aligned(void* memory) noexcept {
    const auto address = reinterpret_cast<std::uintptr_t>(memory);
    return static_cast<std::byte*>(memory) + (detail::round_up(address, detail::cache_line) - address);
  }

  template <class Element>
  void expect_operand(std::string_view where, std::string_view name, const MatrixView<Element>& m,
                      std::size_t cols) const {
    detail::expect_shape(where, name, m, shape_.tokens, cols);
    if (m.stride < cols && m.rows > 1)
      detail::raise<ShapeError>(where, ": ", name, " has a stride of ", m.stride, ", shorter than a row of ", cols);
  }

  alignas(8) std::byte operand_[detail::largest_operand(detail::Formats{})];
  detail::Operation<Product> operation_;
  Shape shape_;
  Needs needs_;
  std::size_t rows_;
  std::size_t cols_;
  std::size_t kept_;
};

/// The plan of a product of `matrix` with `tokens` tokens; plan<MultiplyTransposed>(…) and plan<Sample>(…) for
/// training. Costs under a microsecond. Throws what Plan's constructor does.
template <class Product = Multiply, Packed Matrix>
Plan<Product> plan(const Matrix& matrix, std::size_t tokens, const PlanOptions& options = {}) {
  return Plan<Product>(matrix, tokens, options);
}

}  // namespace losa::inline v0
