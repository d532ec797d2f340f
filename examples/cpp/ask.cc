// Asks about a picture, twice: the second question runs only what is new, since the picture is in the cache already.
//
//   ask BUNDLE PICTURE.ppm QUESTION [LEVEL]
//   ask build/vlm scene.ppm $'USER: <image>\nhow many shapes? ASSISTANT:' r50
//
// Chat templates are applied by the Python interface; here a prompt is written as the model was taught it, <image> where the picture stands
// (in front, if the question has none).
// The bundle is one of a vision-language model (farthing export vlm | idpruner | ...). PPM because it needs no library:
// `convert photo.jpg photo.ppm`, or any decoder of your own; what the runtime takes is uint8 RGB.
#include <cstdint>
#include <farthing.hpp>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

struct Ppm {
  std::int64_t width = 0, height = 0;
  std::vector<std::uint8_t> rgb;
};

Ppm read_ppm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string magic;
  Ppm image;
  int most = 0;
  file >> magic >> image.width >> image.height >> most;
  file.get();  // one blank before the pixels
  if (!file || magic != "P6" || most != 255 || image.width < 1 || image.height < 1 || image.width > (1 << 15) ||
      image.height > (1 << 15)) {
    throw std::runtime_error(path + " is no 8-bit binary PPM (P6), expected one; convert it");
  }
  image.rgb.resize(static_cast<std::size_t>(3 * image.width * image.height));
  file.read(reinterpret_cast<char*>(image.rgb.data()), static_cast<std::streamsize>(image.rgb.size()));
  if (!file) throw std::runtime_error(path + " is cut short, expected all its pixels; convert it again");
  return image;
}

int main(int argc, char** argv) {
  if (argc < 4) {
    std::cerr << "usage: ask BUNDLE PICTURE.ppm QUESTION [LEVEL]\n";
    return 2;
  }
  try {
    farthing::Runtime runtime(argv[1]);
    const Ppm image = read_ppm(argv[2]);
    const std::vector<farthing::Picture> pictures = {
        {image.rgb.data(), image.height, image.width, 0, argc > 4 ? argv[4] : ""}};
    farthing::Sampling how;
    how.max_new_tokens = 32;
    how.reuse_prefix = true;
    std::string prompt = argv[3];
    if (prompt.find("<image>") == std::string::npos) prompt = "<image>\n" + prompt;
    for (int turn = 0; turn < 2; ++turn) {
      const farthing_result result = runtime.generate(prompt, pictures, how, [](std::string_view text) {
        std::cout << text << std::flush;
        return true;
      });
      std::cout << '\n';
      std::cerr << result.visual_rows_after << " of " << result.visual_rows_before << " visual tokens, "
                << result.prompt_tokens << " tokens of prompt in " << result.prefill_seconds << " s\n";
    }
  } catch (const farthing::RuntimeError& error) {
    std::cerr << error.what() << '\n';
    return error.status();
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 2;
  }
}
