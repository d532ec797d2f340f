// Draws images of a class and writes them as one PNG.
//
//   draw BUNDLE CLASS SEED OUT.png [COUNT [DECODE]]
//   draw build/images 207 1 x.png
//   draw build/images 207 1 grid.png 9 exact
//
// The bundle is one of an image model (farthing export llamagen | nar | elm | token-shuffle | gsd | lantern). DECODE is plain, or how
// guessed codes are accepted, where the bundle has drafts. The same seed gives the same codes as `farthing draw`.
#include <cstdlib>
#include <farthing.hpp>
#include <iostream>

int main(int argc, char** argv) {
  if (argc < 5) {
    std::cerr << "usage: draw BUNDLE CLASS SEED OUT.png [COUNT [DECODE]]\n";
    return 2;
  }
  try {
    farthing::Drawer drawer(argv[1]);
    farthing::Drawing how;
    how.seed = std::strtoull(argv[3], nullptr, 10);
    how.decode = argc > 6 ? argv[6] : "";
    const long count = argc > 5 ? std::atol(argv[5]) : 1;
    const std::vector<std::int64_t> labels(static_cast<std::size_t>(count > 0 ? count : 0), std::atoll(argv[2]));
    const farthing::Drawings drawn = drawer.draw(labels, how, [](std::int64_t done, std::int64_t all) {
      std::cerr << '\r' << done << " of " << all << " codes" << std::flush;
      return true;
    });
    drawer.write_png(argv[4], drawn);
    std::cerr << ", " << drawn.result.passes << " passes, " << drawn.result.total_seconds << " s\n";
    for (const std::int64_t code : drawn.codes) std::cout << code << ' ';
    std::cout << '\n';
  } catch (const farthing::RuntimeError& error) {
    std::cerr << error.what() << '\n';
    return error.status();
  }
}
