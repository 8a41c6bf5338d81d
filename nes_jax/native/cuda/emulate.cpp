// The kernel of one concept and size as a host function for tests; macros as in kernels.cu.
#include "kernels.cu"

namespace {

nes::Arguments given;

void body() { nes_solve(given); }

}  // namespace

// Arguments as in `nes::Arguments`; null pointers where it allows them.
extern "C" void nes_emulate(const float* payoffs, const float* log_target, const float* epsilon,
                            const unsigned char* rows, const unsigned char* columns, float* joint,
                            float* duals0, float* duals1, float* residual, int* iterations,
                            int batch, int n, int m, float threshold, int max_iterations,
                            int blocks, int chunk) {
  int taken = 0;
  given = {payoffs,  log_target, epsilon, rows,  columns,
           joint,    {duals0, duals1},    residual, iterations, &taken,
           batch,    n,          m,       chunk, blocks * nes::kThreads / nes::kWarp,
           threshold, max_iterations};
  emulation::launch(blocks, nes::kThreads, body);
}
