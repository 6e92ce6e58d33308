#pragma once
// What OpenBLAS has to be kept from where it is the BLAS at hand: threads of its own, and calls that it has no room
// for. With any other BLAS all this does nothing.
//
//   {
//     llama::BlasCall call;  // waits for room
//     sgemm_(...);
//   }

#include <cstddef>

namespace llama {

/// Room for one call of the BLAS on the calling thread, held until it is destroyed.
///
/// OpenBLAS takes work space for every call that runs (128 MB of address space, most of it never touched) and keeps it
/// for later ones. Where the system refuses the space, under `ulimit -v` say, it tries again without end; where more
/// calls run than it was built for, it writes beyond its tables. So the space is taken ahead, for as many calls as may
/// run at once, and further ones wait.
class BlasCall {
 public:
  /// Throws losa::UnsupportedError if there is not room for a single call.
  BlasCall();
  ~BlasCall();
  BlasCall(const BlasCall&) = delete;
  BlasCall& operator=(const BlasCall&) = delete;
};

/// Takes the space for so many calls at once now, or for as many as leave enough to the rest of the program. To be
/// called where address space is limited, while no other thread asks for memory: a call that needs more space than
/// there was before it looks whether the system gives it, but OpenBLAS is not the only one who may take it then.
void make_room(std::size_t calls);

}  // namespace llama
