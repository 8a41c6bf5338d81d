// Substitutes for the functions of the CUDA driver and of NVRTC that launch.cpp uses, for tests on
// a host without a GPU.
//
// A "binary" is the name of a kernel. Launching it runs the library of that name, which is compiled
// from emulate.cpp, in the folder that the environment variable NES_EMULATED names.
#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <string>

#include "arguments.h"

namespace {

// First bytes of every binary.
constexpr char kMagic[] = "\177ELF";

// A program of NVRTC is represented by the name of its kernel.
std::string* name_of(void* handle) { return static_cast<std::string*>(handle); }

}  // namespace

extern "C" {

int nvrtcVersion(int* major, int* minor) {
  *major = *minor = 0;
  return 0;
}
int nvrtcCreateProgram(void** program, const char*, const char*, int, const char* const*,
                       const char* const*) {
  *program = new std::string;
  return 0;
}
int nvrtcCompileProgram(void* program, int count, const char* const* options) {
  std::string& name = *name_of(program);
  for (const char* key : {"-DNES_CONCEPT=", "-DNES_SIZE=", "-DNES_PADDED="}) {
    for (int i = 0; i < count; ++i) {
      if (std::strncmp(options[i], key, std::strlen(key)) != 0) continue;
      name += (name.empty() ? "" : "_") + std::string(options[i] + std::strlen(key));
    }
  }
  return 0;
}
int nvrtcGetCUBINSize(void* program, size_t* size) {
  *size = std::strlen(kMagic) + name_of(program)->size() + 1;
  return 0;
}
int nvrtcGetCUBIN(void* program, char* binary) {
  std::strcpy(binary, (kMagic + *name_of(program)).c_str());
  return 0;
}
int nvrtcGetProgramLogSize(void*, size_t* size) {
  *size = 0;
  return 0;
}
int nvrtcGetProgramLog(void*, char*) { return 0; }
int nvrtcDestroyProgram(void** program) {
  delete name_of(*program);
  return 0;
}
const char* nvrtcGetErrorString(int) { return "an error"; }

int cuGetErrorString(int, const char** text) {
  *text = "no such kernel";
  return 0;
}
int cuStreamGetCtx(void*, void** context) {
  *context = nullptr;
  return 0;
}
int cuCtxPushCurrent_v2(void*) { return 0; }
int cuCtxPopCurrent_v2(void**) { return 0; }
int cuCtxGetDevice(int* device) {
  *device = 0;
  return 0;
}
int cuDeviceGetAttribute(int* value, int, int) {
  *value = 2;
  return 0;
}
int cuModuleLoadData(void** module, const void* binary) {
  const char* text = static_cast<const char*>(binary) + std::strlen(kMagic);
  const char* folder = std::getenv("NES_EMULATED");
  const std::string path = std::string(folder ? folder : ".") + "/" + text + ".so";
  *module = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  return *module == nullptr;
}
int cuModuleGetFunction(void** function, void* module, const char*) {
  *function = dlsym(module, "nes_emulate_launch");
  return *function == nullptr;
}
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void*, int, size_t) {
  *blocks = 1;
  return 0;
}
int cuMemsetD32Async(unsigned long long at, unsigned value, size_t count, void*) {
  for (size_t i = 0; i < count; ++i) reinterpret_cast<unsigned*>(at)[i] = value;
  return 0;
}
int cuLaunchKernel(void* function, unsigned blocks, unsigned, unsigned, unsigned threads, unsigned,
                   unsigned, unsigned, void*, void** parameters, void**) {
  using Launch = void (*)(const nes::Arguments*, int);
  if (threads != nes::kThreads) return 1;
  reinterpret_cast<Launch>(function)(static_cast<const nes::Arguments*>(parameters[0]),
                                     static_cast<int>(blocks));
  return 0;
}

}  // extern "C"
