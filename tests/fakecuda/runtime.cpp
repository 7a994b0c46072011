// A CUDA runtime without a device, for PyTorch's own CUDA code to run on. Preloaded, it stands before libcudart, and
// its soname makes it libcuda too.
//
// Device memory is reserved memory of the host. A kernel is a name that is counted, or that becomes a node of a graph.
// Streams know whether they capture, and refuse what a device would refuse. Nothing is computed: device memory is zero
// but for what the host copied there. What is missing here reaches the real libraries, which find no device and say so.
#include <cuda_runtime_api.h>
#include <sys/mman.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace {

// ---- State, behind one lock ----

using Counts = std::map<std::string, long>;

struct Graph {
  Counts nodes;
  size_t size = 0;
};

struct Capture {
  cudaStreamCaptureMode mode;
  unsigned long long id;
  std::thread::id thread;
  std::unique_ptr<Graph> graph = std::make_unique<Graph>();
  bool invalid = false;
};

struct Stream {
  int device = 0;
  bool blocking = true;  // whether the legacy stream waits for it
  std::unique_ptr<Capture> capture;
};

struct Event {
  std::chrono::steady_clock::time_point time;
  unsigned long long capture = 0;  // in which it was recorded last; 0 for none
};

struct Block {
  size_t size;
  int device;  // -1 is pinned memory of the host
};

struct Device {
  size_t used = 0;
  Stream legacy;
};

double setting(const char* name, double usual) {
  const char* text = getenv(name);
  return text ? atof(text) : usual;
}

const int device_count = static_cast<int>(setting("FAKE_DEVICES", 1));
const int arch = static_cast<int>(setting("FAKE_ARCH", 90));
const size_t device_memory = static_cast<size_t>(setting("FAKE_GIB", 139.8) * (1ull << 30));

std::recursive_mutex mutex;
std::vector<Device> devices(device_count);
std::set<Stream*> streams;
std::map<char*, Block> blocks;
std::map<const void*, std::string> kernels;  // names by the host's stubs
Counts launches, calls, last_graph;
unsigned long long captures = 0;

thread_local int current_device = 0;
thread_local cudaError_t last_error = cudaSuccess;
thread_local cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;

struct Lock {
  std::lock_guard<std::recursive_mutex> guard{mutex};
};

cudaError_t fail(cudaError_t error) {
  last_error = error;
  return error;
}

void count(const char* call) {
  Lock lock;
  calls[call]++;
}

Stream* find(cudaStream_t handle) {
  const bool legacy = handle == nullptr || handle == cudaStreamLegacy || handle == cudaStreamPerThread;
  return legacy ? &devices[current_device].legacy : reinterpret_cast<Stream*>(handle);
}

// ---- What a capture forbids ----

// The call fails and the capture with it.
cudaError_t spoil(Stream* stream, const char* what, cudaError_t error) {
  fprintf(stderr, "[fake CUDA] refused during a capture: %s\n", what);
  stream->capture->invalid = true;
  return fail(error);
}

// A call that could disturb captures, such as an allocation: which captures forbid it to this thread depends on their
// modes and on the thread's (cudaThreadExchangeStreamCaptureMode).
cudaError_t unsafe(const char* what) {
  Lock lock;
  if (thread_mode == cudaStreamCaptureModeRelaxed) return cudaSuccess;
  for (Stream* stream : streams) {
    if (!stream->capture) continue;
    const auto mode = stream->capture->mode;
    const bool own = stream->capture->thread == std::this_thread::get_id();
    const bool others = mode == cudaStreamCaptureModeGlobal && thread_mode == cudaStreamCaptureModeGlobal;
    if (own ? mode != cudaStreamCaptureModeRelaxed : others)
      return spoil(stream, what, cudaErrorStreamCaptureUnsupported);
  }
  return cudaSuccess;
}

// Work for a stream: counted, or a node of the graph that the stream records.
cudaError_t enqueue(cudaStream_t handle, const std::string& name) {
  Lock lock;
  Stream* stream = find(handle);
  if (stream->capture) {
    if (stream->capture->invalid) return fail(cudaErrorStreamCaptureInvalidated);
    stream->capture->graph->nodes[name]++;
    stream->capture->graph->size++;
    return cudaSuccess;
  }
  for (Stream* other : streams) {
    if (!other->capture) continue;
    if (stream == &devices[other->device].legacy && other->blocking)
      return spoil(other, "work on the legacy stream, which would wait for it", cudaErrorStreamCaptureImplicit);
    // What a step launches on another stream than the one that records is missing in the graph; other threads may.
    const bool own = other->capture->thread == std::this_thread::get_id();
    calls[own ? "launched beside the capture" : "launched by another thread"]++;
  }
  launches[name]++;
  return cudaSuccess;
}

// A kernel, which unlike a copy must be for the current device.
cudaError_t launch(cudaStream_t handle, const std::string& name) {
  Lock lock;
  Stream* stream = find(handle);
  if (streams.count(stream) && stream->device != current_device) return fail(cudaErrorInvalidResourceHandle);
  return enqueue(handle, name);
}

std::map<char*, Block>::iterator block_of(const void* address) {
  auto next = blocks.upper_bound(static_cast<char*>(const_cast<void*>(address)));
  if (next == blocks.begin()) return blocks.end();
  const auto block = std::prev(next);
  return address < block->first + block->second.size ? block : blocks.end();
}

const char* place(const void* address) {
  const auto block = block_of(address);
  return block == blocks.end() ? "pageable" : block->second.device < 0 ? "pinned" : "device";
}

}  // namespace

extern "C" {

// ---- For device.py and blas.cpp ----

// Lines of a count, a tab and a name: what was launched (0), calls of the runtime (1), nodes of the last graph (2). The
// number of bytes is returned; they are written if they are fewer than `room`.
size_t fake_read(int which, char* out, size_t room) {
  Lock lock;
  std::string text;
  for (const auto& [name, number] : which == 0 ? launches : which == 1 ? calls : last_graph)
    text += std::to_string(number) + "\t" + name + "\n";
  if (text.size() < room) memcpy(out, text.c_str(), text.size() + 1);
  return text.size();
}

// Launches and calls are counted from here on.
void fake_reset() {
  Lock lock;
  launches.clear();
  calls.clear();
}

// As `launch` and `unsafe`, for what stands outside of this file.
int fake_launch(void* stream, const char* name) { return launch(static_cast<cudaStream_t>(stream), name); }
int fake_unsafe(const char* what) { return unsafe(what); }

// ---- Errors ----

cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}

cudaError_t cudaPeekAtLastError() { return last_error; }

const char* cudaGetErrorName(cudaError_t error) {
  static const std::map<cudaError_t, const char*> names = {
      {cudaSuccess, "cudaSuccess"},
      {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation"},
      {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported"},
      {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated"},
      {cudaErrorStreamCaptureIsolation, "cudaErrorStreamCaptureIsolation"},
      {cudaErrorStreamCaptureImplicit, "cudaErrorStreamCaptureImplicit"},
      {cudaErrorCapturedEvent, "cudaErrorCapturedEvent"},
      {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle"},
  };
  const auto known = names.find(error);
  return known == names.end() ? "another error of CUDA" : known->second;
}

const char* cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }

// ---- Devices: the figures are an H200's ----

cudaError_t cudaGetDeviceCount(int* count) {
  *count = device_count;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= device_count) return fail(cudaErrorInvalidDevice);
  current_device = device;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) { return cudaDriverGetVersion(version); }

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  *p = {};
  snprintf(p->name, sizeof p->name, "no device (tests/fakecuda)");
  p->totalGlobalMem = device_memory;
  p->major = arch / 10;
  p->minor = arch % 10;
  p->multiProcessorCount = 132;
  p->warpSize = 32;
  p->maxThreadsPerBlock = 1024;
  p->maxThreadsPerMultiProcessor = 2048;
  p->sharedMemPerBlock = 48 << 10;
  p->sharedMemPerBlockOptin = 227 << 10;
  p->sharedMemPerMultiprocessor = 228 << 10;
  p->regsPerBlock = p->regsPerMultiprocessor = 65536;
  p->l2CacheSize = 60 << 20;
  p->maxGridSize[0] = 2147483647;
  p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
  p->maxThreadsDim[2] = 64;
  p->memoryBusWidth = 6144;
  p->unifiedAddressing = p->concurrentKernels = 1;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp p;
  cudaGetDeviceProperties(&p, device);
  const std::map<cudaDeviceAttr, int> values = {
      {cudaDevAttrComputeCapabilityMajor, p.major},
      {cudaDevAttrComputeCapabilityMinor, p.minor},
      {cudaDevAttrMultiProcessorCount, p.multiProcessorCount},
      {cudaDevAttrMaxSharedMemoryPerBlock, static_cast<int>(p.sharedMemPerBlock)},
      {cudaDevAttrMaxSharedMemoryPerBlockOptin, static_cast<int>(p.sharedMemPerBlockOptin)},
      {cudaDevAttrMaxThreadsPerBlock, p.maxThreadsPerBlock},
      {cudaDevAttrMaxThreadsPerMultiProcessor, p.maxThreadsPerMultiProcessor},
      {cudaDevAttrWarpSize, p.warpSize},
      {cudaDevAttrMaxGridDimX, p.maxGridSize[0]},
      {cudaDevAttrMaxGridDimY, p.maxGridSize[1]},
  };
  const auto known = values.find(attribute);
  if (known == values.end()) return fail(cudaErrorInvalidValue);
  *value = known->second;
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* available, size_t* total) {
  Lock lock;
  *total = device_memory;
  *available = device_memory - devices[current_device].used;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int* yes, int, int) {
  *yes = 0;
  return cudaSuccess;
}

// ---- Streams: work is over as soon as it is given ----

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* handle, unsigned flags, int) {
  Lock lock;
  auto* stream = new Stream{current_device, !(flags & cudaStreamNonBlocking), nullptr};
  streams.insert(stream);
  *handle = reinterpret_cast<cudaStream_t>(stream);
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  Lock lock;
  if (streams.erase(find(handle))) delete find(handle);
  return cudaSuccess;
}

cudaError_t cudaStreamGetPriority(cudaStream_t, int* priority) {
  *priority = 0;
  return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
  Lock lock;
  Stream* stream = find(handle);
  return stream->capture ? spoil(stream, "a query of it", cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  Lock lock;
  count("cudaStreamSynchronize");
  Stream* stream = find(handle);
  if (stream->capture) return spoil(stream, "waiting for it", cudaErrorStreamCaptureUnsupported);
  return unsafe("waiting for another stream");
}

cudaError_t cudaDeviceSynchronize() {
  Lock lock;
  count("cudaDeviceSynchronize");
  for (Stream* stream : streams)  // whichever thread captures, and in whichever mode
    if (stream->capture && stream->device == current_device)
      return spoil(stream, "waiting for the device", cudaErrorStreamCaptureUnsupported);
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t awaited, unsigned) {
  Lock lock;
  Stream* stream = find(handle);
  const unsigned long long recorded = reinterpret_cast<Event*>(awaited)->capture;
  if (stream->capture && stream->capture->id != recorded)
    return spoil(stream, "waiting for work outside of it", cudaErrorStreamCaptureIsolation);
  // A device would let the other stream record too; no step here does that.
  if (!stream->capture && recorded) return fail(cudaErrorNotSupported);
  return cudaSuccess;
}

// ---- Captures and graphs ----

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(*mode, thread_mode);
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
  Lock lock;
  Stream* stream = find(handle);
  if (!streams.count(stream)) return fail(cudaErrorStreamCaptureUnsupported);  // the legacy stream
  if (stream->capture) return fail(cudaErrorIllegalState);
  stream->capture = std::make_unique<Capture>(Capture{mode, ++captures, std::this_thread::get_id()});
  count("capture begun");
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
  Lock lock;
  Stream* stream = find(handle);
  *graph = nullptr;
  if (!stream->capture) return fail(cudaErrorIllegalState);
  if (stream->capture->mode != cudaStreamCaptureModeRelaxed && stream->capture->thread != std::this_thread::get_id())
    return fail(cudaErrorStreamCaptureWrongThread);
  const auto capture = std::move(stream->capture);
  count(capture->invalid ? "capture failed" : "capture ended");
  if (capture->invalid) return fail(cudaErrorStreamCaptureInvalidated);
  last_graph = capture->graph->nodes;
  *graph = reinterpret_cast<cudaGraph_t>(capture->graph.release());
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
  Lock lock;
  const Stream* stream = find(handle);
  *status = !stream->capture           ? cudaStreamCaptureStatusNone
            : stream->capture->invalid ? cudaStreamCaptureStatusInvalidated
                                       : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}

cudaError_t cudaStreamGetCaptureInfo(
    cudaStream_t handle, cudaStreamCaptureStatus* status, unsigned long long* id, cudaGraph_t* graph,
    const cudaGraphNode_t** dependencies, const cudaGraphEdgeData** edges, size_t* number) {
  Lock lock;
  const Stream* stream = find(handle);
  cudaStreamIsCapturing(handle, status);
  if (id) *id = stream->capture ? stream->capture->id : 0;
  if (graph) *graph = stream->capture ? reinterpret_cast<cudaGraph_t>(stream->capture->graph.get()) : nullptr;
  if (dependencies) *dependencies = nullptr;
  if (edges) *edges = nullptr;
  if (number) *number = 0;
  return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t*, size_t* number) {
  *number = reinterpret_cast<Graph*>(graph)->size;
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = reinterpret_cast<cudaGraphExec_t>(new Graph(*reinterpret_cast<Graph*>(graph)));
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t stream) { return enqueue(stream, "graph"); }

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete reinterpret_cast<Graph*>(graph);
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete reinterpret_cast<Graph*>(executable);
  return cudaSuccess;
}

// ---- Events ----

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = reinterpret_cast<cudaEvent_t>(new Event);
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete reinterpret_cast<Event*>(event);
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream) {
  Lock lock;
  auto* event = reinterpret_cast<Event*>(handle);
  event->time = std::chrono::steady_clock::now();
  event->capture = find(stream)->capture ? find(stream)->capture->id : 0;
  return cudaSuccess;
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned) {
  return cudaEventRecord(event, stream);
}

cudaError_t cudaEventQuery(cudaEvent_t handle) {
  Lock lock;
  const auto* event = reinterpret_cast<Event*>(handle);
  if (!event->capture) return unsafe("a query of an event");
  for (Stream* stream : streams)
    if (stream->capture && stream->capture->id == event->capture)
      return spoil(stream, "a query of its event", cudaErrorCapturedEvent);
  return fail(cudaErrorCapturedEvent);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  count("cudaEventSynchronize");
  return cudaEventQuery(event);
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  const auto elapsed = reinterpret_cast<Event*>(end)->time - reinterpret_cast<Event*>(start)->time;
  *milliseconds = std::chrono::duration<float, std::milli>(elapsed).count() + 1e-3f;  // never zero: it is divided by
  return cudaSuccess;
}

// ---- Memory ----

cudaError_t cudaMalloc(void** address, size_t size) {
  Lock lock;
  count("cudaMalloc");
  if (const cudaError_t error = unsafe("cudaMalloc")) return error;
  size_t& used = devices[current_device].used;
  if (size > device_memory - used) return fail(cudaErrorMemoryAllocation);
  // Without a reserve, only pages that are written take memory.
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* found = mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (found == MAP_FAILED) return fail(cudaErrorMemoryAllocation);
  blocks[static_cast<char*>(found)] = {size, current_device};
  used += size;
  *address = found;
  return cudaSuccess;
}

cudaError_t cudaFree(void* address) {
  if (!address) return cudaSuccess;
  Lock lock;
  count("cudaFree");
  if (const cudaError_t error = unsafe("cudaFree")) return error;
  const auto block = blocks.find(static_cast<char*>(address));
  if (block == blocks.end()) return fail(cudaErrorInvalidValue);
  munmap(address, block->second.size);
  devices[block->second.device].used -= block->second.size;
  blocks.erase(block);
  return cudaSuccess;
}

cudaError_t cudaHostAlloc(void** address, size_t size, unsigned) {
  Lock lock;
  count("cudaHostAlloc");
  if (const cudaError_t error = unsafe("cudaHostAlloc")) return error;
  *address = malloc(size);
  blocks[static_cast<char*>(*address)] = {size, -1};
  return cudaSuccess;
}

cudaError_t cudaFreeHost(void* address) {
  Lock lock;
  blocks.erase(static_cast<char*>(address));
  free(address);
  return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* address) {
  Lock lock;
  const auto block = block_of(address);
  *attributes = {};
  if (block == blocks.end()) return cudaSuccess;  // the zero is "unregistered"
  attributes->type = block->second.device < 0 ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
  attributes->device = block->second.device;
  attributes->devicePointer = const_cast<void*>(address);
  if (block->second.device < 0) attributes->hostPointer = attributes->devicePointer;
  return cudaSuccess;
}

// ---- Copies ----

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind, cudaStream_t handle) {
  Lock lock;
  const std::string source = place(from), target = place(to), name = "memcpy " + source + " to " + target;
  Stream* stream = find(handle);
  const bool pageable = source == "pageable" || target == "pageable";
  if (stream->capture && pageable) return spoil(stream, name.c_str(), cudaErrorStreamCaptureUnsupported);
  const bool recorded = stream->capture != nullptr;
  if (const cudaError_t error = enqueue(handle, name)) return error;
  // Between two places on devices nothing is copied: it would only fill memory.
  if (!recorded && (source != "device" || target != "device")) memcpy(to, from, size);
  return cudaSuccess;
}

cudaError_t cudaMemcpyPeerAsync(void*, int, const void*, int, size_t, cudaStream_t stream) {
  return enqueue(stream, "memcpy device to device");
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t size, cudaMemcpyKind kind) {
  Lock lock;
  count("cudaMemcpy");
  if (const cudaError_t error = unsafe("cudaMemcpy")) return error;
  return cudaMemcpyAsync(to, from, size, kind, nullptr);
}

cudaError_t cudaMemsetAsync(void*, int, size_t, cudaStream_t stream) { return enqueue(stream, "memset"); }

// ---- Kernels: the compiler's stubs register them by name, and launch them by the address of the stub ----

void** __cudaRegisterFatBinary(void*) {
  static void* handle = nullptr;
  return &handle;
}

void __cudaRegisterFatBinaryEnd(void**) {}

void __cudaUnregisterFatBinary(void**) {}

void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}

void __cudaRegisterFunction(
    void**, const char* stub, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*, int*) {
  Lock lock;
  kernels[stub] = name;
}

struct Configuration {
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
};
static thread_local Configuration pushed;

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
  pushed = {grid, block, shared, stream};
  return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  *grid = pushed.grid;
  *block = pushed.block;
  *shared = pushed.shared;
  *static_cast<cudaStream_t*>(stream) = pushed.stream;
  return cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* stub) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(stub));
  return cudaSuccess;
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3, dim3, void**, size_t, cudaStream_t stream) {
  Lock lock;
  const auto known = kernels.find(kernel);
  return launch(stream, known == kernels.end() ? "unknown kernel" : known->second);
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* c, const void* stub, void** arguments) {
  cudaKernel_t kernel;
  __cudaGetKernel(&kernel, stub);
  return __cudaLaunchKernel(kernel, c->gridDim, c->blockDim, arguments, c->dynamicSmemBytes, c->stream);
}

cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  *attributes = {};
  attributes->maxThreadsPerBlock = 1024;
  attributes->numRegs = 32;
  attributes->ptxVersion = attributes->binaryVersion = arch;
  return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int, size_t, unsigned) {
  *blocks = 4;
  return cudaSuccess;
}

// ---- The driver, of which PyTorch asks little ----

cudaError_t cudaGetDriverEntryPointByVersion(
    const char*, void** function, unsigned, unsigned long long, cudaDriverEntryPointQueryResult* result) {
  static const auto nothing = +[]() -> int { return 0; };
  *function = reinterpret_cast<void*>(nothing);
  if (result) *result = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}

int cuCtxGetCurrent(void** context) {
  static int some;
  *context = &some;
  return 0;
}

int cuDevicePrimaryCtxGetState(int, unsigned* flags, int* active) {
  *flags = 0;
  *active = 1;
  return 0;
}
}
