#pragma once
// Whether bytes are plainly something else than the tokens that a model would take them for: text for a model whose
// tokens are not bytes, numbers of another width or byte order, a file format. Told from a bounded number of bytes,
// spread over all of them, and from values alone: bytes of token ids are spread over everything, control characters
// among them, so that no file of ids is mistaken.

#include <cstddef>
#include <span>
#include <string>

namespace llama {

/// Empty if nothing speaks against little-endian tokens of `bits` bits and a vocabulary of that size; else what the
/// bytes look like and what to do: "looks like text (...): ...".
std::string what_else(std::span<const std::byte> bytes, std::size_t bits, std::size_t vocabulary);

}  // namespace llama
