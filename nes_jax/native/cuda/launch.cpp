// Host part of the GPU engine: a custom call of XLA that launches the kernels.
//
// nes_jax/native/cuda/__init__.py registers the call. A kernel (kernels.cu) is compiled by NVRTC
// when it is first needed, kept on disk, and launched on XLA's stream. Building this file needs no
// CUDA toolkit: the driver and NVRTC are opened at run time, and the functions used are declared
// here.
//
// The file is longer than others because it is a single library with few entry points; its parts
// (driver, compiler, cache, launch, custom call) follow one another in that order.
#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <mutex>
#include <sstream>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "arguments.h"
#include "xla/ffi/api/ffi.h"

// Types of the CUDA driver and of NVRTC.
extern "C" {
typedef int CUresult;
typedef int CUdevice;
typedef struct CUctx_st* CUcontext;
typedef struct CUmod_st* CUmodule;
typedef struct CUfunc_st* CUfunction;
typedef struct CUstream_st* CUstream;
typedef unsigned long long CUdeviceptr;
typedef int nvrtcResult;
typedef struct _nvrtcProgram* nvrtcProgram;
}

namespace {

namespace ffi = xla::ffi;

// Error with a message that says what to do. It is caught before it can reach C code.
struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Values of CUdevice_attribute.
constexpr int kMultiprocessors = 16, kMajor = 75, kMinor = 76;

// Shared library that is opened at run time.
class Library {
 public:
  // Opens the first candidate that can be opened. Returns whether there is one.
  bool open(const std::vector<std::string>& candidates) {
    for (const std::string& candidate : candidates) {
      handle_ = dlopen(candidate.c_str(), RTLD_NOW | RTLD_LOCAL);
      if (handle_ != nullptr) return true;
    }
    return false;
  }
  // Looks up a function by name.
  template <class Function>
  void find(Function*& function, const char* name) const {
    function = reinterpret_cast<Function*>(dlsym(handle_, name));
    if (function == nullptr) throw Failure(std::string("nes_jax: there is no function ") + name);
  }

 private:
  void* handle_ = nullptr;
};

// Functions of the CUDA driver.
struct Driver {
  Library library;
  CUresult (*get_error_string)(CUresult, const char**);
  CUresult (*stream_get_context)(CUstream, CUcontext*);
  CUresult (*push_context)(CUcontext);
  CUresult (*pop_context)(CUcontext*);
  CUresult (*get_device)(CUdevice*);
  CUresult (*get_attribute)(int*, int, CUdevice);
  CUresult (*load_module)(CUmodule*, const void*);
  CUresult (*get_function)(CUfunction*, CUmodule, const char*);
  CUresult (*occupancy)(int*, CUfunction, int, size_t);
  CUresult (*set_words)(CUdeviceptr, unsigned, size_t, CUstream);
  CUresult (*launch)(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                     unsigned, CUstream, void**, void**);

  Driver() {
    if (!library.open({"libcuda.so.1"})) {
      throw Failure("nes_jax: the NVIDIA driver's libcuda.so.1 cannot be opened; install a driver");
    }
    library.find(get_error_string, "cuGetErrorString");
    library.find(stream_get_context, "cuStreamGetCtx");
    library.find(push_context, "cuCtxPushCurrent_v2");
    library.find(pop_context, "cuCtxPopCurrent_v2");
    library.find(get_device, "cuCtxGetDevice");
    library.find(get_attribute, "cuDeviceGetAttribute");
    library.find(load_module, "cuModuleLoadData");
    library.find(get_function, "cuModuleGetFunction");
    library.find(occupancy, "cuOccupancyMaxActiveBlocksPerMultiprocessor");
    library.find(set_words, "cuMemsetD32Async");
    library.find(launch, "cuLaunchKernel");
  }
  // Throws Failure if a call did not succeed.
  void check(CUresult result, const char* doing) const {
    if (result == 0) return;
    const char* text = nullptr;
    get_error_string(result, &text);
    throw Failure(std::string("nes_jax: ") + doing + " failed: " + (text ? text : "unknown error") +
                  "; use NES_JAX_CUDA=none to go without the GPU engine");
  }
};

// Functions of NVRTC, CUDA's run-time compiler.
struct Compiler {
  Library library;
  nvrtcResult (*version)(int*, int*);
  nvrtcResult (*create)(nvrtcProgram*, const char*, const char*, int, const char* const*,
                        const char* const*);
  nvrtcResult (*compile)(nvrtcProgram, int, const char* const*);
  nvrtcResult (*binary_size)(nvrtcProgram, size_t*);
  nvrtcResult (*binary)(nvrtcProgram, char*);
  nvrtcResult (*log_size)(nvrtcProgram, size_t*);
  nvrtcResult (*log)(nvrtcProgram, char*);
  nvrtcResult (*destroy)(nvrtcProgram*);
  const char* (*get_error_string)(nvrtcResult);
  int major = 0, minor = 0;

  explicit Compiler(const std::vector<std::string>& candidates) {
    if (!library.open(candidates)) {
      throw Failure(
          "nes_jax: CUDA's run-time compiler libnvrtc.so cannot be opened; pip install"
          " nvidia-cuda-nvrtc (CUDA 13) or nvidia-cuda-nvrtc-cu12, as the CUDA of JAX is");
    }
    library.find(version, "nvrtcVersion");
    library.find(create, "nvrtcCreateProgram");
    library.find(compile, "nvrtcCompileProgram");
    library.find(binary_size, "nvrtcGetCUBINSize");
    library.find(binary, "nvrtcGetCUBIN");
    library.find(log_size, "nvrtcGetProgramLogSize");
    library.find(log, "nvrtcGetProgramLog");
    library.find(destroy, "nvrtcDestroyProgram");
    library.find(get_error_string, "nvrtcGetErrorString");
    version(&major, &minor);
  }
};

// A variant of the kernel, and the kind of device that it is compiled for.
struct Variant {
  bool correlated;
  int size;
  bool padded;
  // Compute capability of the device.
  int major, minor;

  bool operator<(const Variant& other) const { return key() < other.key(); }
  std::tuple<bool, int, bool, int, int> key() const {
    return {correlated, size, padded, major, minor};
  }
  // Options of the compiler.
  std::vector<std::string> options() const {
    return {"--gpu-architecture=sm_" + std::to_string(major) + std::to_string(minor),
            "--std=c++17", "--device-as-default-execution-space",
            std::string("-DNES_CONCEPT=") + (correlated ? "Correlated" : "Coarse"),
            "-DNES_SIZE=" + std::to_string(size),
            std::string("-DNES_PADDED=") + (padded ? "true" : "false")};
  }
};

// A kernel that is loaded into a context.
struct Kernel {
  CUfunction function;
  // Number of blocks that the device runs at the same time.
  int blocks;
};

// State that all calls share. The lock is held while kernels are compiled and loaded.
struct Engine {
  std::mutex lock;
  std::string sources, cache;
  std::vector<std::string> compilers;
  std::map<std::pair<CUcontext, Variant>, Kernel> kernels;
};
Engine& engine() {
  // The object is never destroyed, because threads may run after the destruction of statics.
  static Engine* const shared = new Engine;
  return *shared;
}
const Driver& driver() {
  static const Driver* const shared = new Driver;
  return *shared;
}
const Compiler& compiler() {
  static const Compiler* const shared = new Compiler(engine().compilers);
  return *shared;
}

// Reads a file.
std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Failure("nes_jax: cannot read " + path + "; install nes_jax again");
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// Files that a kernel is compiled from.
constexpr const char* kSources[] = {"kernels.cu", "arguments.h", "device.h", "coarse.h",
                                    "correlated.h"};

// Path of the binary of a variant in the cache. The name contains a hash (FNV-1a) of everything
// that the binary depends on.
std::string cached_path(const Variant& variant) {
  uint64_t hash = 14695981039346656037u;
  auto add = [&](const std::string& text) {
    for (unsigned char c : text + '\0') hash = (hash ^ c) * 1099511628211u;
  };
  for (const char* name : kSources) add(read(engine().sources + "/" + name));
  for (const std::string& option : variant.options()) add(option);
  add(std::to_string(compiler().major) + "." + std::to_string(compiler().minor));
  char name[64];
  std::snprintf(name, sizeof name, "/%s%d-sm%d%d-%016llx.cubin", variant.correlated ? "ce" : "cce",
                variant.size, variant.major, variant.minor, static_cast<unsigned long long>(hash));
  return engine().cache + name;
}

// Compiles a variant, and returns the binary.
std::string compile(const Variant& variant) {
  const Compiler& nvrtc = compiler();
  auto check = [&](nvrtcResult result, const char* doing) {
    if (result == 0) return;
    throw Failure(std::string("nes_jax: ") + doing + " failed: " + nvrtc.get_error_string(result));
  };
  const std::string source = read(engine().sources + "/kernels.cu");
  nvrtcProgram program = nullptr;
  check(nvrtc.create(&program, source.c_str(), "kernels.cu", 0, nullptr, nullptr), "NVRTC");
  struct Cleanup {
    const Compiler& nvrtc;
    nvrtcProgram* program;
    ~Cleanup() { nvrtc.destroy(program); }
  } cleanup{nvrtc, &program};
  std::vector<std::string> options = variant.options();
  options.push_back("--include-path=" + engine().sources);
  std::vector<const char*> pointers;
  for (const std::string& option : options) pointers.push_back(option.c_str());
  const nvrtcResult result =
      nvrtc.compile(program, static_cast<int>(pointers.size()), pointers.data());
  if (result != 0) {
    size_t size = 0;
    nvrtc.log_size(program, &size);
    std::string log(size, '\0');
    if (size > 0) nvrtc.log(program, log.data());
    std::ostringstream text;
    text << "nes_jax: NVRTC " << nvrtc.major << "." << nvrtc.minor << " cannot compile for "
         << options[0] << " (" << nvrtc.get_error_string(result)
         << "): install the NVRTC of a CUDA that knows this GPU, or use NES_JAX_CUDA=none to go"
            " without the GPU engine\n"
         << log.c_str();
    throw Failure(text.str());
  }
  size_t size = 0;
  check(nvrtc.binary_size(program, &size), "reading the size of NVRTC's answer");
  std::string binary(size, '\0');
  check(nvrtc.binary(program, binary.data()), "reading NVRTC's answer");
  return binary;
}

// Writes a binary to the cache, in one step for other processes. Failure to write is no error, as
// the binary is then compiled again the next time.
void keep(const std::string& path, const std::string& binary) {
  static std::atomic<unsigned> count{0};
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  const std::string temporary =
      path + "." + std::to_string(getpid()) + "." + std::to_string(count++) + ".tmp";
  {
    std::ofstream file(temporary, std::ios::binary);
    file.write(binary.data(), static_cast<std::streamsize>(binary.size()));
    file.close();
    if (!file) {
      std::filesystem::remove(temporary, error);
      return;
    }
  }
  std::filesystem::rename(temporary, path, error);
  if (error) std::filesystem::remove(temporary, error);
}

// Returns the binary of a variant, from the cache or by compilation. With `fresh` it is compiled in
// any case.
std::string binary_of(const Variant& variant, bool fresh) {
  const std::string path = cached_path(variant);
  if (!fresh) {
    std::ifstream file(path, std::ios::binary);
    std::string binary{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    if (binary.size() > 4 && binary.compare(0, 4, "\177ELF") == 0) return binary;
  }
  std::string binary = compile(variant);
  keep(path, binary);
  return binary;
}

// Loads a kernel into the current context.
Kernel load(const Variant& variant, int multiprocessors) {
  CUmodule module = nullptr;
  if (driver().load_module(&module, binary_of(variant, false).c_str()) != 0) {
    // The file in the cache may be damaged.
    driver().check(driver().load_module(&module, binary_of(variant, true).c_str()),
                   "loading a kernel");
  }
  Kernel kernel{};
  driver().check(driver().get_function(&kernel.function, module, "nes_solve"), "finding a kernel");
  int blocks = 0;
  driver().check(driver().occupancy(&blocks, kernel.function, nes::kThreads, 0),
                 "asking for a kernel's occupancy");
  kernel.blocks = std::max(1, blocks) * multiprocessors;
  return kernel;
}

// Makes the context of a stream current during the lifetime of the object.
class Current {
 public:
  explicit Current(CUstream stream) {
    driver().check(driver().stream_get_context(stream, &context_), "asking for a stream's context");
    driver().check(driver().push_context(context_), "entering a context");
  }
  ~Current() {
    CUcontext popped;
    driver().pop_context(&popped);
  }
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;
  CUcontext context() const { return context_; }

 private:
  CUcontext context_ = nullptr;
};

// Returns the kernel for a shape on the device of the current context, and loads it if needed.
const Kernel& kernel_for(const Current& current, bool correlated, int size, bool padded) {
  CUdevice device = 0;
  Variant variant{correlated, size, padded, 0, 0};
  int multiprocessors = 1;
  driver().check(driver().get_device(&device), "asking for the device");
  auto attribute = [&](int& value, int which) {
    driver().check(driver().get_attribute(&value, which, device), "asking for a device's data");
  };
  attribute(variant.major, kMajor);
  attribute(variant.minor, kMinor);
  attribute(multiprocessors, kMultiprocessors);
  Engine& shared = engine();
  const std::lock_guard<std::mutex> guard(shared.lock);
  const auto key = std::make_pair(current.context(), variant);
  const auto found = shared.kernels.find(key);
  if (found != shared.kernels.end()) return found->second;
  return shared.kernels.emplace(key, load(variant, multiprocessors)).first->second;
}

// Sets the number of blocks to launch and the number of games that a warp takes at a time.
void plan(nes::Arguments& args, int& blocks, int most_blocks, int teams) {
  constexpr int warps_of_block = nes::kThreads / nes::kWarp;
  const int warps = most_blocks * warps_of_block;
  // A chunk has a game for each team of a warp at least. Few games a chunk make all warps end at
  // about the same time, and at most 32 fit into the cache before they are needed.
  args.chunk = std::max(teams, std::min(32, args.batch / (4 * warps)));
  const int needed = (args.batch + args.chunk - 1) / args.chunk;
  blocks = std::min(most_blocks, (needed + warps_of_block - 1) / warps_of_block);
  args.warps = blocks * warps_of_block;
}

// Address of a buffer, or null for a buffer without elements.
template <class Element, ffi::DataType type>
const Element* or_null(const ffi::Buffer<type>& buffer) {
  if (buffer.element_count() == 0) return nullptr;
  return reinterpret_cast<const Element*>(buffer.typed_data());
}

// Solves a batch on a stream. Operands and results are those of `nes::Arguments`, with any number
// of leading axes. The logarithm of the target and the strategies may have no elements.
ffi::Error solve_or_throw(CUstream stream, const ffi::Buffer<ffi::F32>& payoffs,
                          const ffi::Buffer<ffi::F32>& log_target,
                          const ffi::Buffer<ffi::F32>& epsilon,
                          const ffi::Buffer<ffi::PRED>& rows,
                          const ffi::Buffer<ffi::PRED>& columns,
                          ffi::ResultBuffer<ffi::F32>& joint, ffi::ResultBuffer<ffi::F32>& first,
                          ffi::ResultBuffer<ffi::F32>& second,
                          ffi::ResultBuffer<ffi::F32>& residual,
                          ffi::ResultBuffer<ffi::S32>& iterations,
                          ffi::ResultBuffer<ffi::S32>& taken, bool correlated, float threshold,
                          int32_t max_iterations) {
  const auto shape = payoffs.dimensions();
  if (shape.size() < 3) return ffi::Error::InvalidArgument("nes_jax: payoffs must be [B, 2, n, m]");
  const int64_t n = shape[shape.size() - 2], m = shape[shape.size() - 1];
  const int64_t largest = std::max(n, m);
  if (shape[shape.size() - 3] != 2 || std::min(n, m) < 1 || largest > (correlated ? 8 : 16)) {
    return ffi::Error::InvalidArgument("nes_jax: the GPU engine cannot serve this shape");
  }
  const int64_t games = static_cast<int64_t>(payoffs.element_count()) / (2 * n * m);
  if (games == 0) return ffi::Error::Success();
  if (games > 1 << 30) {
    return ffi::Error::InvalidArgument("nes_jax: too many games in one call; make batches of them");
  }
  const auto wrong = [&](size_t count, int64_t wanted) {
    return count != static_cast<size_t>(games * wanted);
  };
  const int64_t duals0 = correlated ? n * n : n, duals1 = correlated ? m * m : m;
  if (wrong(epsilon.element_count(), 2) || wrong(joint->element_count(), n * m) ||
      wrong(first->element_count(), duals0) || wrong(second->element_count(), duals1) ||
      wrong(residual->element_count(), 1) || wrong(iterations->element_count(), 1) ||
      taken->element_count() < 1 ||
      (log_target.element_count() != 0 && wrong(log_target.element_count(), n * m)) ||
      rows.element_count() * m != columns.element_count() * n ||
      (rows.element_count() != 0 && wrong(rows.element_count(), n))) {
    return ffi::Error::InvalidArgument("nes_jax: an operand of the GPU engine has a wrong shape");
  }
  int size = 2;
  while (size < largest) size *= 2;
  nes::Arguments args{};
  args.payoffs = payoffs.typed_data();
  args.log_target = or_null<float>(log_target);
  args.epsilon = epsilon.typed_data();
  args.rows = or_null<unsigned char>(rows);
  args.columns = or_null<unsigned char>(columns);
  args.joint = joint->typed_data();
  args.duals[0] = first->typed_data();
  args.duals[1] = second->typed_data();
  args.residual = residual->typed_data();
  args.iterations = iterations->typed_data();
  args.taken = taken->typed_data();
  args.batch = static_cast<int>(games);
  args.n = static_cast<int>(n);
  args.m = static_cast<int>(m);
  args.threshold = threshold;
  args.max_iterations = max_iterations;
  const bool padded = n != size || m != size || args.rows != nullptr;

  const Current current(stream);
  const Kernel& kernel = kernel_for(current, correlated, size, padded);
  int blocks = 1;
  plan(args, blocks, kernel.blocks, nes::kWarp / nes::team_lanes(correlated, size));
  driver().check(driver().set_words(reinterpret_cast<CUdeviceptr>(args.taken), 0, 1, stream),
                 "setting a counter");
  void* parameters[] = {&args};
  driver().check(driver().launch(kernel.function, static_cast<unsigned>(blocks), 1, 1,
                                 nes::kThreads, 1, 1, 0, stream, parameters, nullptr),
                 "launching a kernel");
  return ffi::Error::Success();
}

// Handler of the custom call: turns exceptions into errors of XLA.
ffi::Error solve(CUstream stream, ffi::Buffer<ffi::F32> payoffs, ffi::Buffer<ffi::F32> log_target,
                 ffi::Buffer<ffi::F32> epsilon, ffi::Buffer<ffi::PRED> rows,
                 ffi::Buffer<ffi::PRED> columns, ffi::ResultBuffer<ffi::F32> joint,
                 ffi::ResultBuffer<ffi::F32> first, ffi::ResultBuffer<ffi::F32> second,
                 ffi::ResultBuffer<ffi::F32> residual, ffi::ResultBuffer<ffi::S32> iterations,
                 ffi::ResultBuffer<ffi::S32> taken, bool correlated, float threshold,
                 int32_t max_iterations) {
  try {
    return solve_or_throw(stream, payoffs, log_target, epsilon, rows, columns, joint, first, second,
                          residual, iterations, taken, correlated, threshold, max_iterations);
  } catch (const std::exception& failure) {
    return ffi::Error::Internal(failure.what());
  } catch (...) {
    return ffi::Error::Internal("nes_jax: the GPU engine failed");
  }
}

// Splits a text into its lines, without empty ones.
std::vector<std::string> lines(const char* text) {
  std::vector<std::string> result;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) {
    if (!line.empty()) result.push_back(line);
  }
  return result;
}

// Runs an action that may throw, and writes the reason of a failure to `message`. Returns whether
// it failed.
template <class Action>
int guarded(Action action, char* message, int size) {
  try {
    action();
    return 0;
  } catch (const std::exception& failure) {
    std::snprintf(message, static_cast<size_t>(size), "%s", failure.what());
  } catch (...) {
    std::snprintf(message, static_cast<size_t>(size), "nes_jax: the GPU engine failed");
  }
  return 1;
}

}  // namespace

#pragma GCC visibility push(default)

extern "C" {

// Sets the folder of the kernels' source, the folder of compiled kernels, and the files that may be
// NVRTC, one in each line. It must be called once, before any other function.
int nes_cuda_configure(const char* sources, const char* cache, const char* compilers, char* message,
                       int size) {
  return guarded(
      [&] {
        const std::lock_guard<std::mutex> guard(engine().lock);
        engine().sources = sources;
        engine().cache = cache;
        engine().compilers = lines(compilers);
      },
      message, size);
}

// Returns whether the driver or NVRTC is missing. `message` then says which.
int nes_cuda_missing(char* message, int size) {
  return guarded(
      [] {
        driver();
        const std::lock_guard<std::mutex> guard(engine().lock);
        compiler();
      },
      message, size);
}

// Compiles a kernel into the cache, for a device that need not be present. Returns 0 on success, or
// 1 with a reason in `message`.
int nes_cuda_compile(int correlated, int kernel_size, int padded, int major, int minor,
                     char* message, int size) {
  return guarded(
      [&] {
        const std::lock_guard<std::mutex> guard(engine().lock);
        binary_of({correlated != 0, kernel_size, padded != 0, major, minor}, false);
      },
      message, size);
}

}  // extern "C"

#ifdef NES_ON_HOST
// This case is for tests with emulated_driver.cpp. On a CPU, XLA has no streams.
#define NES_SOLVE [](auto... given) { return solve(nullptr, given...); }
#define NES_BIND ffi::Ffi::Bind()
#else
#define NES_SOLVE solve
#define NES_BIND ffi::Ffi::Bind().Ctx<ffi::PlatformStream<CUstream>>()
#endif

XLA_FFI_DEFINE_HANDLER_SYMBOL(nes_cuda_solve, NES_SOLVE,
                              NES_BIND.Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::PRED>>()
                                  .Arg<ffi::Buffer<ffi::PRED>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::Buffer<ffi::S32>>()
                                  .Attr<bool>("correlated")
                                  .Attr<float>("threshold")
                                  .Attr<int32_t>("max_iterations"));

#pragma GCC visibility pop
