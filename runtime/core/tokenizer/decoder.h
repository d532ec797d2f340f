// Decoders: from token texts back to the text. Written as a stream, so that decoding at once and decoding while tokens
// arrive are one implementation and cannot differ.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "json_node.h"

namespace farthing::tokenizer {

// One step of a running decoder. Passes on what no later token can change, and keeps the rest.
class DecodeStage {
 public:
  virtual ~DecodeStage() = default;
  virtual void push(std::string_view token) = 0;
  virtual void finish() {}  // passes on what was kept, and is then as new

  void set_next(DecodeStage* next) { next_ = next; }

 protected:
  DecodeStage* next_ = nullptr;
};

// A decoder as configured; immutable. Each running decode makes its own stages from it.
class Decoder {
 public:
  Decoder();  // no decoder in the file: tokens joined with spaces
  // Reads the field `decoder`: ByteLevel, ByteFallback, Fuse, Metaspace, Replace, Strip and Sequences of them.
  explicit Decoder(const JsonNode& node);

  // A running decode. Not for use by two threads at once.
  class Run {
   public:
    explicit Run(const Decoder& decoder);
    Run(Run&&) noexcept;
    Run& operator=(Run&&) noexcept;
    ~Run();
    void push(std::string_view token, std::string& out);  // appends what became final
    void finish(std::string& out);                        // appends the rest, ready for another text

   private:
    class Sink;
    std::vector<std::unique_ptr<DecodeStage>> stages_;
    std::unique_ptr<Sink> sink_;
  };

 private:
  using Factory = std::function<std::unique_ptr<DecodeStage>()>;
  void read(const JsonNode& node, int depth, bool& fused);
  std::vector<Factory> factories_;
};

}  // namespace farthing::tokenizer
