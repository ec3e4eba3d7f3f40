// Tests of csrc/data without Python; csrc/tests/run.sh builds and runs them.
// Every run draws fresh inputs; PYGPT_TEST_SEED repeats one.

#include "testing.hpp"

int main() {
    const char* given = std::getenv("PYGPT_TEST_SEED");
    const std::uint64_t seed = given ? std::strtoull(given, nullptr, 10) : std::random_device{}();
    random_bits.seed(seed);
    std::cout << "PYGPT_TEST_SEED=" << seed << std::endl;

    test_token_file();
    test_batch_sampler();
    test_documents();

    std::cout << (failures ? "FAILED: " + std::to_string(failures) : "passed") << std::endl;
    return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
