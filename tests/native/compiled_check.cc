// Which compiled result the core would take: compiled_check BUNDLE TARGET VERSION SM ABI CONTEXT  (SM, ABI: "-" = not known)
#include <cstdlib>
#include <cstring>
#include <iostream>

#include "bundle.h"
#include "compiled.h"
#include "error.h"

int main(int argc, char** argv) {
  if (argc != 7) return 2;
  const auto number = [](const char* text) -> std::optional<std::int64_t> {
    if (std::strcmp(text, "-") == 0) return std::nullopt;
    return std::atoll(text);
  };
  try {
    const farthing::Bundle bundle = farthing::open_bundle(argv[1], false);
    const farthing::Machine machine{argv[3], number(argv[4]), number(argv[5]), std::atoll(argv[6])};
    const auto all = farthing::list_compiled(bundle, argv[2]);
    const farthing::Compiled& chosen = farthing::choose_compiled(all, bundle, machine);
    farthing::check_compiled(chosen);
    std::cout << chosen.folder.filename().string() << " " << chosen.capacity << " " << chosen.in_place;
    for (const auto& p : chosen.profiles) {
      std::cout << " " << p.name << ":" << p.least_rows << "-" << p.most_rows << ":" << p.least_wanted << "-"
                << p.most_wanted;
    }
    std::cout << "\n";
    return 0;
  } catch (const farthing::Error& error) {
    std::cout << static_cast<int>(error.status()) << " " << error.what() << "\n";
    return 1;
  }
}
