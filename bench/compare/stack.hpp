#pragma once
// A stack of LLaMA-2-7B's blocks that decodes one token: the seven products of every block by one contender, and around
// them what is the same for all: norms, rotary embedding, attention over the tokens so far, gates.

#include <cstddef>
#include <memory>
#include <vector>

#include "contender.hpp"

namespace compare {

class Stack final : public Contender {
 public:
  static constexpr std::size_t hidden = 4096;
  static constexpr std::size_t inner = 11008;
  static constexpr std::size_t heads = 32;
  static constexpr std::size_t past = 256;  // tokens that attention looks back on

  /// Products made by `entry`, pruned unless it is dense. Throws NotHere.
  Stack(const Entry& entry, std::size_t blocks, const Pruning& pruning, losa::ThreadPool& pool);

  void prepare(const Operands&) override {}
  /// Decodes one token. Throws std::runtime_error if what comes out is not finite.
  void run() override;
  std::size_t bytes() const override;
  std::string kernel() const override { return blocks_[0].q->kernel(); }
  std::size_t kept() const { return kept_; }

 private:
  struct Block {
    std::unique_ptr<Contender> q, k, v, o, gate, up, down;
    std::vector<float> keys, values;  // (past, hidden)

    std::vector<Contender*> all() const {
      return {q.get(), k.get(), v.get(), o.get(), gate.get(), up.get(), down.get()};
    }
  };

  void attend(Block& block);

  losa::ThreadPool& pool_;
  std::vector<Block> blocks_;
  std::size_t kept_ = 0;
  std::vector<float> state_, normed_, q_, k_, v_, mixed_, gate_, up_, change_;
};

}  // namespace compare
