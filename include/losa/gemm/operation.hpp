#pragma once
// A product as an engine calls it: what it takes, what a call needs, and its tasks. plan.hpp has the plans that hold
// these; backend.hpp has a table of them for every backend.
//
//   needs(operand, shape)                                  phases, bytes of workspace
//   tasks(operand, shape, phase)                           tasks of a phase, in any order, on any threads
//   run(operand, shape, phase, task, arguments, workspace) one of them; throws nothing, allocates nothing
//
// Every task of a phase has to end before one of the next begins. No result depends on which thread runs a task, nor on
// `shape.threads`: that says how finely to cut.

#include <cstddef>
#include <limits>
#include <span>

#include <losa/core/view.hpp>

namespace losa::inline v0 {

/// y (tokens, rows) = [y +] x (tokens, cols) · Wᵀ [+ bias (rows)]. x and y must not overlap.
struct Multiply {
  MatrixView<const float> x;
  MatrixView<float> y;
  std::span<const float> bias = {};
  bool accumulate = false;
};

/// dx (tokens, cols) = [dx +] g (tokens, rows) · W. g and dx must not overlap.
struct MultiplyTransposed {
  MatrixView<const float> g;
  MatrixView<float> dx;
  bool accumulate = false;
};

/// values[k] = [base[k] +] scale · Σ_t g[t, r] · x[t, c] at the k-th kept position (r, c), from g (tokens, rows) and x
/// (tokens, cols). `base` is empty or as long as `values`, which it may be itself.
struct Sample {
  MatrixView<const float> g;
  MatrixView<const float> x;
  std::span<float> values;
  std::span<const float> base = {};
  float scale = 1;
};

/// Of a call: tokens (rank, for a Sample that adds B·A), and the threads that run its tasks at the same time.
struct Shape {
  std::size_t tokens = 0;
  std::size_t threads = 1;
};

/// Memory of a call, aligned to 64 bytes and uninitialised at the start.
struct Workspace {
  std::byte* shared = nullptr;  // one for all tasks, kept from phase to phase
  std::byte* own = nullptr;     // of the thread that runs the task; holds nothing between tasks
};

struct Needs {
  std::size_t phases = 1;
  std::size_t shared = 0;  // bytes
  std::size_t own = 0;     // bytes for each thread
};

/// What a product does to its activations and sums, beyond sums in float (of n terms: ± (n + 3) · 2⁻²³ · Σ |terms|).
struct Rounding {
  /// An activation is off by at most step · the largest magnitude of the `scale_cols` columns around it (from a
  /// multiple of scale_cols on), or of itself if scale_cols is 1. 0: activations are used as they are.
  double step = 0;
  std::size_t scale_cols = 1;
  /// Sums are double, and rounded once.
  bool double_sums = false;
  /// Sums do not overflow for activations up to this magnitude, if the result does not.
  float most = std::numeric_limits<float>::max();
};

namespace detail {

/// `operand` points to an Operand of the format (formats.hpp).
template <class Arguments>
struct Operation {
  Needs (*needs)(const void* operand, Shape shape) noexcept = nullptr;
  std::size_t (*tasks)(const void* operand, Shape shape, std::size_t phase) noexcept = nullptr;
  void (*run)(const void* operand, Shape shape, std::size_t phase, std::size_t task, const Arguments& arguments,
              Workspace workspace) noexcept = nullptr;
  Rounding (*rounding)(const void* operand, Shape shape) noexcept = nullptr;
};

/// The operation of a Schedule, which is made of an operand and a shape anew wherever it is asked: a few divisions.
template <class Schedule, class Arguments, class OperandType>
constexpr Operation<Arguments> operation_of() noexcept {
  return {.needs = [](const void* operand, Shape shape) noexcept -> Needs {
            return Schedule(*static_cast<const OperandType*>(operand), shape).needs();
          },
          .tasks = [](const void* operand, Shape shape, std::size_t phase) noexcept -> std::size_t {
            return Schedule(*static_cast<const OperandType*>(operand), shape).tasks(phase);
          },
          .run =
              [](const void* operand, Shape shape, std::size_t phase, std::size_t task, const Arguments& arguments,
                 Workspace workspace) noexcept {
                Schedule(*static_cast<const OperandType*>(operand), shape).run(phase, task, arguments, workspace);
              },
          .rounding = [](const void* operand, Shape shape) noexcept -> Rounding {
            return Schedule(*static_cast<const OperandType*>(operand), shape).rounding();
          }};
}

}  // namespace detail
}  // namespace losa::inline v0
