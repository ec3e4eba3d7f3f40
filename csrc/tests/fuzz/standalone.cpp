// Runs the fuzz target where there is no libFuzzer: mutated seeds, random options, a count.
//
//   standalone INPUTS [SEED]
//   standalone --write-seeds DIRECTORY      the seeds as files, for libFuzzer

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "seeds.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

std::mt19937_64 bits;

std::size_t draw(std::size_t below) { return static_cast<std::size_t>(bits() % below); }

std::string mutated(std::string bytes) {
    for (std::size_t changes = draw(6); changes > 0 && !bytes.empty(); --changes) {
        const std::size_t at = draw(2) == 0 ? draw(bytes.size()) : draw(std::min<std::size_t>(
                                                                        bytes.size(), 96));
        switch (draw(5)) {
            case 0: bytes[at] = static_cast<char>(bits()); break;
            case 1: bytes[at] = static_cast<char>(bytes[at] ^ (1 << draw(8))); break;
            case 2: bytes.erase(at, 1 + draw(16)); break;
            case 3: bytes.insert(at, bytes.substr(draw(bytes.size()), 1 + draw(16))); break;
            default: bytes.resize(at); break;
        }
    }
    return bytes;
}

int write_seeds(const std::string& directory) {
    int number = 0;
    for (const auto& seed : seed_files()) {
        std::ofstream(directory + "/seed-" + std::to_string(number++), std::ios::binary) << seed;
    }
    return 0;
}

std::string random_bytes(std::size_t n) {
    std::string bytes(n, '\0');
    for (char& byte : bytes) byte = static_cast<char>(bits());
    return bytes;
}

std::string last_input;

// Writes what a sanitizer or a failed check ended on, so that it can be run again.
void keep_input() {
    if (std::FILE* file = std::fopen("crash-input", "wb")) {
        std::fwrite(last_input.data(), 1, last_input.size(), file);
        std::fclose(file);
        std::fprintf(stderr, "the input is in crash-input (%zu bytes)\n", last_input.size());
    }
}

}  // namespace

extern "C" void __sanitizer_set_death_callback(void (*callback)());

int main(int argc, char** argv) {
    if (argc == 3 && std::string(argv[1]) == "--write-seeds") return write_seeds(argv[2]);
    const long n_inputs = argc > 1 ? std::atol(argv[1]) : 100'000;
    const std::uint64_t seed =
        argc > 2 ? std::strtoull(argv[2], nullptr, 10) : std::random_device{}();
    std::printf("%ld inputs, seed %llu\n", n_inputs, static_cast<unsigned long long>(seed));
    std::fflush(stdout);
    bits.seed(seed);
    __sanitizer_set_death_callback(keep_input);
    const std::vector<std::string> seeds = seed_files();
    for (long n = 0; n < n_inputs; ++n) {
        last_input = mutated(seeds[draw(seeds.size())]);
        if (draw(4) == 0) last_input += mutated(seeds[draw(seeds.size())]);
        last_input += random_bytes(draw(48));
        LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(last_input.data()),
                               last_input.size());
    }
    std::printf("no failure\n");
}
