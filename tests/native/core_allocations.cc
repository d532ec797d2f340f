// Counts what farthing's own code allocates per decoded token after warm-up: the answer must be nothing.
//
//   core_allocations BUNDLE ONNXRUNTIME OPS [MARKER]   ->   "ours <n> all <m>" over 64 tokens; with MARKER, its id, behind an image
#include "count_allocations.h"
#include "engine.h"

int main(int argc, char** argv) {
  if (argc != 4 && argc != 5) return 2;
  farthing::EngineOptions options;
  options.backend.onnxruntime = argv[2];
  options.backend.ops_library = argv[3];
  options.backend.threads = 1;
  options.backend.capacity = 256;
  farthing::Engine engine(argv[1], options);
  find_ops();
  if (!ops_begin) return 3;
  std::vector<std::int32_t> prompt{5, 6, 7};
  std::vector<farthing::ImageInput> images;
  const std::vector<std::uint8_t> grey(3 * 50 * 40, 99);
  if (argc == 5) {
    prompt[1] = std::atoi(argv[4]);
    images.push_back({{grey.data(), 50, 40, 3 * 40}, ""});
  }
  for (const double temperature : {0.0, 0.8}) {
    farthing::GenerateOptions how;
    how.max_new_tokens = 80;
    how.sampler.temperature = temperature;
    how.sampler.repetition_penalty = temperature ? 1.1 : 1;
    long seen = 0;
    engine.generate(
        prompt, how,
        [&](std::int32_t) {
          ++seen;
          if (seen == 10) counting = true;  // by now scratch memory has its size
          if (seen == 74) counting = false;
          return true;
        },
        images);
    counting = false;
    if (seen != 80) return 4;
  }
  std::printf("ours %ld all %ld\n", ours.load(), all.load());
  return 0;
}
