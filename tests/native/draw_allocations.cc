// Counts what farthing's own code allocates per pass of a drawing after warm-up: the answer must be nothing.
//
//   draw_allocations BUNDLE ONNXRUNTIME OPS DECODE   ->   "ours <n> all <m>" over the passes of a second drawing
#include "count_allocations.h"
#include "drawing/drawer.h"

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  farthing::OrtOptions options;
  options.onnxruntime = argv[2];
  options.ops_library = argv[3];
  options.threads = 1;
  farthing::drawing::Drawer drawer(argv[1], options);
  find_ops();
  if (!ops_begin) return 3;
  const std::int64_t labels[] = {1, 2};
  farthing::drawing::Wish wish;
  wish.classes = labels;
  wish.count = 2;
  farthing::drawing::DrawOptions how;
  how.decode = argv[4];
  // Sizes of passes depend on what is accepted: the same drawing again has the same ones.
  for (const bool counted : {false, true}) {
    long calls = 0;
    drawer.draw(wish, how, [&](std::int64_t done, std::int64_t all) {
      counting =
          counted && ++calls >= 2 && 2 * done < all;  // the first image of two, where images are drawn one by one
      return true;
    });
    counting = false;
    if (counted && calls < 5) return 4;
  }
  std::printf("ours %ld all %ld\n", ours.load(), all.load());
  return 0;
}
