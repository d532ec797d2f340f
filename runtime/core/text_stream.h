// Generated ids to text that is final: holds back unfinished characters and the beginnings of stop strings.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace farthing {

class TextStream {
 public:
  // `stop`: strings that end the text; neither they nor what follows is ever given out. Empty strings are refused.
  TextStream(const Tokenizer& tokenizer, std::vector<std::string> stop);

  // Text that became final with this id. After a stop string, stopped() holds and everything is empty.
  std::string push(std::int32_t id);
  // The rest, at the end of a generation that no stop string ended.
  std::string finish();
  bool stopped() const { return stopped_; }

 private:
  std::string release(bool all);

  StreamDecoder decoder_;
  std::vector<std::string> stop_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace farthing
