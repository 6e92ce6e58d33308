#pragma once
// Errors: one exception type per kind of mistake, raised with one sentence that names the function,
// the argument, what was expected and what came.
//
// Under -fno-exceptions nothing can be thrown. Then the sentence goes to the handler installed with
// set_error_handler, which must not return; without one the program terminates.

#include <charconv>
#include <cstddef>
#include <exception>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

namespace losa::inline v0 {

/// Base of everything that losa throws.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};
/// Sizes of matrices that do not fit together.
struct ShapeError : Error {
  using Error::Error;
};
/// A number outside its permitted range.
struct RangeError : Error {
  using Error::Error;
};
/// A computation that cannot go on: not positive definite, NaN, Inf.
struct NumericError : Error {
  using Error::Error;
};
/// A file that cannot be read or written, or whose content is not what it claims.
struct FileError : Error {
  using Error::Error;
};
/// A request that this machine or build cannot serve (an absent instruction set, say).
struct UnsupportedError : Error {
  using Error::Error;
};

#if !defined(__cpp_exceptions)
/// Called instead of throwing; must not return.
using ErrorHandler = void (*)(const char* message);

namespace detail {
inline ErrorHandler& error_handler() noexcept {
  static ErrorHandler handler = nullptr;
  return handler;
}
}  // namespace detail

/// Installs what receives errors in a program built without exceptions; returns the previous handler.
inline ErrorHandler set_error_handler(ErrorHandler handler) noexcept {
  ErrorHandler previous = detail::error_handler();
  detail::error_handler() = handler;
  return previous;
}
#endif

namespace detail {

inline void append(std::string& out, std::string_view part) { out += part; }
inline void append(std::string& out, char part) { out += part; }

template <class Number>
requires std::is_arithmetic_v<Number>
void append(std::string& out, Number part) {
  if constexpr (std::is_same_v<Number, bool>) {
    out += part ? "true" : "false";
  } else {
    char digits[64];
    const char* end = std::to_chars(digits, digits + sizeof digits, part).ptr;
    out.append(digits, static_cast<std::size_t>(end - digits));
  }
}

/// Joins words and numbers to one sentence, numbers in their shortest exact form.
template <class... Parts>
std::string text(const Parts&... parts) {
  std::string out;
  (append(out, parts), ...);
  return out;
}

/// Throws Kind(text(parts...)), or hands the sentence to the error handler.
template <class Kind, class... Parts>
[[__noreturn__]] void raise(const Parts&... parts) {
#if defined(__cpp_exceptions)
  throw Kind(text(parts...));
#else
  const std::string message = text(parts...);
  if (ErrorHandler handler = error_handler()) handler(message.c_str());
  std::terminate();
#endif
}

}  // namespace detail
}  // namespace losa::inline v0
