// Streams an answer, then prints the token ids as Python prints them: the two interfaces give the same.
//
//   generate BUNDLE PROMPT [MAX_NEW_TOKENS [TEMPERATURE SEED [CONTEXT]]]
#include <cstdlib>
#include <farthing.hpp>
#include <iostream>

int main(int argc, char** argv) {
  if (argc < 3) {
    std::cerr << "usage: generate BUNDLE PROMPT [MAX_NEW_TOKENS [TEMPERATURE SEED [CONTEXT]]]\n";
    return 2;
  }
  try {
    farthing_options options = FARTHING_OPTIONS_INIT;
    options.threads = 1;
    options.context = argc > 6 ? std::atoll(argv[6]) : 0;  // 0 = at most 2048
    farthing::Runtime runtime(argv[1], options);
    farthing::Sampling how;
    how.max_new_tokens = argc > 3 ? std::atoll(argv[3]) : 32;
    how.temperature = argc > 4 ? std::atof(argv[4]) : 0;
    how.seed = argc > 5 ? std::strtoull(argv[5], nullptr, 10) : 0;

    const farthing_result result = runtime.generate(argv[2], how, [](std::string_view text) {
      std::cout << text << std::flush;
      return true;
    });
    std::cout << "\nids:";
    for (const std::int32_t id : runtime.generate(runtime.encode(argv[2]), how)) std::cout << ' ' << id;
    std::cout << '\n';
    std::cerr << result.new_tokens << " tokens in " << result.passes << " passes, "
              << static_cast<double>(result.new_tokens) / result.decode_seconds << " tokens/s\n";
  } catch (const farthing::RuntimeError& error) {
    std::cerr << error.what() << '\n';
    return error.status();
  }
}
