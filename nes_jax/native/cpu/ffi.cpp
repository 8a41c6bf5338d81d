// CPU engine as a custom call of XLA, for programs that are traced by JAX.
//
// nes_jax/native/cpu/__init__.py registers the calls. The code here turns the buffers and attributes
// of XLA into requests to the C interface (api.cpp).
#include <string>

#include "system.h"
#include "xla/ffi/api/ffi.h"

extern "C" int64_t nes_cpu_solve(const NesRequest* request);
extern "C" int64_t nes_cpu_solve_systems(const NesSystem* request);

namespace {

namespace ffi = xla::ffi;

// Numbers of buffers of `solve`. The variables of the method are optional.
constexpr int kNumArguments = 8, kNumAnswers = 9, kNumVariables = 6;
// Numbers that describe one pass, in the order of NesPass.
constexpr size_t kPassNumbers = 10;

// Returns the address of an argument, or null for an argument without elements.
void* data_of(const ffi::RemainingArgs& arguments, int index) {
  const auto buffer = arguments.get<ffi::AnyBuffer>(index);
  return buffer.has_value() && buffer->element_count() ? buffer->untyped_data() : nullptr;
}

// Sets `out` to the addresses of all results. Returns whether all are there.
bool addresses_of(ffi::RemainingRets& results, void** out) {
  for (size_t i = 0; i < results.size(); ++i) {
    auto buffer = results.get<ffi::AnyBuffer>(i);
    if (!buffer.has_value()) return false;
    out[i] = (*buffer)->untyped_data();
  }
  return true;
}

// Solves a batch of games. The arguments have leading axes of games. They are payoffs, epsilon,
// welfare weight, target, welfare, strategies, and duals and joint of a start; the last five may have
// no elements. The results are those of NesRequest, in its order, followed by its variables if these
// are wanted.
ffi::Error solve(ffi::RemainingArgs arguments, ffi::RemainingRets results,
                 ffi::Span<const int64_t> counts, bool correlated, double rho, double epsilon_max,
                 ffi::Span<const double> passes, bool start_is_normalised, int64_t threads) {
  const bool with_variables = results.size() == kNumAnswers + kNumVariables;
  if (arguments.size() != kNumArguments || (results.size() != kNumAnswers && !with_variables) ||
      passes.size() % kPassNumbers != 0 || passes.size() > kNesMaxPasses * kPassNumbers) {
    return ffi::Error::InvalidArgument("nes_jax: wrong number of operands");
  }
  std::vector<int32_t> sizes(counts.begin(), counts.end());
  int64_t joint = 1;
  for (int64_t count : counts) joint *= count;
  const auto payoffs = arguments.get<ffi::AnyBuffer>(0);
  auto answer = results.get<ffi::AnyBuffer>(0);
  if (!payoffs.has_value() || !answer.has_value())
    return ffi::Error::InvalidArgument("nes_jax: operands are missing");
  NesRequest request{};
  request.players = int32_t(sizes.size());
  request.games = int64_t(payoffs->element_count()) / (joint * request.players);
  request.counts = sizes.data();
  request.correlated = correlated;
  request.wide_payoffs = payoffs->element_type() == ffi::F64;
  request.wide_answers = (*answer)->element_type() == ffi::F64;
  request.payoffs = data_of(arguments, 0);
  request.epsilon = data_of(arguments, 1), request.epsilon_stride = request.players;
  request.weight = data_of(arguments, 2), request.weight_stride = 1;
  request.target = data_of(arguments, 3), request.target_stride = joint;
  request.welfare = data_of(arguments, 4), request.welfare_stride = joint;
  request.strategies = static_cast<const uint8_t*>(data_of(arguments, 5));
  request.start = data_of(arguments, 6), request.start_joint = data_of(arguments, 7);
  request.start_is_normalised = start_is_normalised;
  request.threads = int32_t(threads);
  request.rho = rho, request.epsilon_max = epsilon_max;
  request.num_passes = int32_t(passes.size() / kPassNumbers);
  for (int k = 0; k < request.num_passes; ++k) {
    const double* x = passes.begin() + k * kPassNumbers;
    request.passes[k] = NesPass{int32_t(x[0]), int32_t(x[1]), int32_t(x[2]), x[3], x[4], x[5],
                                x[6], x[7], x[8], x[9]};
  }
  void* out[kNumAnswers + kNumVariables] = {};
  if (!addresses_of(results, out))
    return ffi::Error::InvalidArgument("nes_jax: a result is missing");
  request.joint = out[0], request.out_epsilon = out[1], request.gap = out[2];
  request.residual = out[3], request.converged = static_cast<uint8_t*>(out[4]);
  request.duals = out[5], request.marginals = out[6];
  request.iterations = static_cast<int32_t*>(out[7]);
  request.repeated = static_cast<uint8_t*>(out[8]);
  request.variables_joint = out[9], request.variables_bound = out[10];
  request.variables_slack = out[11], request.variables_duals = out[12];
  request.variables_shift = out[13], request.variables_room = out[14];
  if (request.games == 0 || nes_cpu_solve(&request) >= 0) return ffi::Error::Success();
  return ffi::Error::Internal("nes_jax: the native engine ran out of memory");
}

// Numbers of buffers of `solve_systems`.
constexpr int kNumSystemArguments = 12, kNumSystemAnswers = 4;

// Solves a batch of Newton systems. Arguments and results are those of NesSystem, in its order, with
// leading axes of games.
ffi::Error solve_systems(ffi::RemainingArgs arguments, ffi::RemainingRets results,
                         ffi::Span<const int64_t> counts, bool correlated, bool soft,
                         int64_t threads) {
  if (arguments.size() != kNumSystemArguments || results.size() != kNumSystemAnswers)
    return ffi::Error::InvalidArgument("nes_jax: wrong number of operands");
  const void* in[kNumSystemArguments];
  for (int i = 0; i < kNumSystemArguments; ++i) in[i] = data_of(arguments, i);
  void* out[kNumSystemAnswers];
  if (!addresses_of(results, out))
    return ffi::Error::InvalidArgument("nes_jax: a result is missing");
  const auto temperature = arguments.get<ffi::AnyBuffer>(1);
  if (!temperature.has_value())
    return ffi::Error::InvalidArgument("nes_jax: operands are missing");
  const std::vector<int32_t> sizes(counts.begin(), counts.end());
  NesSystem request{};
  request.games = int64_t(temperature->element_count());
  request.counts = sizes.data(), request.players = int32_t(sizes.size());
  request.correlated = correlated, request.soft = soft, request.threads = int32_t(threads);
  request.wide = temperature->element_type() == ffi::F64;
  request.payoffs = in[0], request.temperature = in[1], request.rho = in[2];
  request.joint = in[3], request.bound = in[4], request.slack = in[5], request.duals = in[6];
  request.room = in[7], request.stationary = in[8], request.feasible = in[9];
  request.mass = in[10], request.room_sides = in[11];
  request.out_joint = out[0], request.out_duals = out[1], request.out_shift = out[2];
  request.out_room = out[3];
  if (request.games == 0 || nes_cpu_solve_systems(&request) >= 0) return ffi::Error::Success();
  return ffi::Error::Internal("nes_jax: the native engine ran out of memory");
}

}  // namespace

// Entry points that XLA calls.
extern "C" __attribute__((visibility("default"))) XLA_FFI_Error* NesCpuSolveSystems(
    XLA_FFI_CallFrame* frame) {
  static auto* handler = ffi::Ffi::Bind()
                             .RemainingArgs()
                             .RemainingRets()
                             .Attr<ffi::Span<const int64_t>>("counts")
                             .Attr<bool>("correlated")
                             .Attr<bool>("soft")
                             .Attr<int64_t>("threads")
                             .To(solve_systems)
                             .release();
  return handler->Call(frame);
}

extern "C" __attribute__((visibility("default"))) XLA_FFI_Error* NesCpuSolve(
    XLA_FFI_CallFrame* frame) {
  static auto* handler = ffi::Ffi::Bind()
                             .RemainingArgs()
                             .RemainingRets()
                             .Attr<ffi::Span<const int64_t>>("counts")
                             .Attr<bool>("correlated")
                             .Attr<double>("rho")
                             .Attr<double>("epsilon_max")
                             .Attr<ffi::Span<const double>>("passes")
                             .Attr<bool>("start_is_normalised")
                             .Attr<int64_t>("threads")
                             .To(solve)
                             .release();
  return handler->Call(frame);
}
