// Kernel of one concept and size as a function of the host, for tests. The macros are those of
// kernels.cu. Tests of the kernels call `nes_emulate`, and emulated_driver.cpp calls
// `nes_emulate_launch`.
#include "kernels.cu"

namespace {

// Arguments of the launch that is running.
nes::Arguments given;

void body() { nes_solve(given); }

}  // namespace

extern "C" {

// Runs the kernel with so many blocks.
void nes_emulate_launch(const nes::Arguments* args, int blocks) {
  given = *args;
  emulation::launch(blocks, nes::kThreads, body);
}

// Runs the kernel with arguments as in `nes::Arguments`, which may be null where it says so.
void nes_emulate(const float* payoffs, const float* log_target, const float* epsilon,
                 const unsigned char* rows, const unsigned char* columns, float* joint,
                 float* duals0, float* duals1, float* residual, int* iterations, int batch, int n,
                 int m, float threshold, int max_iterations, int blocks, int chunk) {
  int taken = 0;
  nes::Arguments args{};
  args.payoffs = payoffs;
  args.log_target = log_target;
  args.epsilon = epsilon;
  args.rows = rows;
  args.columns = columns;
  args.joint = joint;
  args.duals[0] = duals0;
  args.duals[1] = duals1;
  args.residual = residual;
  args.iterations = iterations;
  args.taken = &taken;
  args.batch = batch;
  args.n = n;
  args.m = m;
  args.chunk = chunk;
  args.warps = blocks * nes::kThreads / nes::kWarp;
  args.threshold = threshold;
  args.max_iterations = max_iterations;
  nes_emulate_launch(&args, blocks);
}

}  // extern "C"
