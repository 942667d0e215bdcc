// Device memory, streams, events and graphs. Work on a stream happens when someone waits for it, or at once, as
// TSR_EMULATION_ASYNC asks: code that reads a result too soon gets an old one in one of the two.
#include <chrono>
#include <cstdio>
#include <map>

#include "capture.h"
#include "host_api.h"
#include "scheduler.h"

namespace tsr::emulation {

namespace {

struct Device {
  Stream default_stream;
  std::vector<Stream*> streams{&default_stream};
  std::map<const char*, size_t> device, pinned;  // blocks of memory by address
  size_t device_bytes = 0;
  std::string message;              // what cudaGetErrorString adds to the last error
  cudaError_t error = cudaSuccess;  // sticky: a kernel failed
  cudaError_t last = cudaSuccess;
};
Device& state() {
  static Device& all = *new Device;  // destructors of other objects of static storage may still need it
  return all;
}

size_t limit() {
  const char* const text = getenv("TSR_EMULATION_MEMORY");
  return text != nullptr ? size_t(strtoull(text, nullptr, 0)) : size_t(1) << 40;
}
int devices() {
  const char* const text = getenv("TSR_EMULATION_DEVICES");
  return text != nullptr ? atoi(text) : 1;
}
/// Of the device that is shown: TSR_EMULATION_ARCH=80 lets programs choose what they have for that one; they have nothing for one below 80.
int capability() {
  const char* const text = getenv("TSR_EMULATION_ARCH");
  return text != nullptr ? atoi(text) : 90;
}

cudaError_t result(cudaError_t code) {
  if (code == cudaSuccess) code = state().error;
  if (code != cudaSuccess) state().last = code;
  return code;
}

void drain(Stream* stream, const bool* until = nullptr) {
  while (!stream->works.empty() && (until == nullptr || !*until)) {
    const Work work = std::move(stream->works.front());
    stream->works.pop_front();
    if (state().error == cudaSuccess) work();
  }
}

Stream* or_default(Stream* stream) { return stream != nullptr ? stream : &state().default_stream; }

/// The block of memory around an address.
const std::pair<const char* const, size_t>* block_of(const std::map<const char*, size_t>& blocks, const void* p) {
  auto next = blocks.upper_bound(static_cast<const char*>(p));
  if (next == blocks.begin()) return nullptr;
  --next;
  return static_cast<const char*>(p) < next->first + next->second ? &*next : nullptr;
}

}  // namespace

/// Whether [p, p + bytes) lies in one block of device memory; else cudaGetErrorString says what is wrong.
bool on_device(const void* p, size_t bytes, const char* what) {
  const auto* const block = block_of(state().device, p);
  if (block != nullptr && size_t(static_cast<const char*>(p) - block->first) + bytes <= block->second) return true;
  char text[200];
  if (block == nullptr) snprintf(text, sizeof text, "%s: %p is not device memory", what, p);
  else snprintf(text, sizeof text, "%s: %zu bytes at %p end %zu bytes behind their block of %zu", what, bytes, p, size_t(static_cast<const char*>(p) - block->first) + bytes - block->second, block->second);
  state().message = text;
  return false;
}

namespace {
double now() { return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

/// A graph that is being recorded, or that of a number: until it is, CUDA refuses what takes or frees memory, or waits.
static std::shared_ptr<Capture> captures(int number = 0) {
  for (const Stream* stream : state().streams)
    if (stream->capture != nullptr && (number == 0 || stream->capture->number == number)) return stream->capture;
  return nullptr;
}

void enqueue(Stream* given, Work work) {
  Stream* const stream = or_default(given);
  if (stream->capture != nullptr) return stream->capture->add(stream, std::move(work));
  const Asynchrony when = settings_from_environment().asynchrony;
  stream->works.push_back(std::move(work));
  if (when == Asynchrony::early || (when == Asynchrony::random && rand() % 2 == 0)) drain(stream);
}

void enqueue(const Launch& launch, Work body) {
  enqueue(launch.stream, [launch, body = std::move(body)] {
    const std::string error = execute(launch, body);
    if (!error.empty()) state().error = cudaErrorLaunchFailure, state().message = error, fprintf(stderr, "emulation: %s\n", error.c_str());
  });
}

cudaError_t allocate(void** p, size_t bytes) {
  *p = nullptr;
  if (captures()) return result(cudaErrorStreamCaptureUnsupported);
  if (bytes > limit() || state().device_bytes > limit() - bytes) return result(cudaErrorMemoryAllocation);
  const size_t room = (bytes + 4095) / 4096 * 4096 + 4096;  // whole pages: the race detector tells device memory by pages
  char* const at = static_cast<char*>(aligned_alloc(4096, room));
  if (at == nullptr) return result(cudaErrorMemoryAllocation);
  memset(at, 0xff, bytes);
  TSR_POISON(at + bytes, room - bytes);
  race::add_region(at, bytes, false);
  state().device[at] = bytes, state().device_bytes += bytes;
  *p = at;
  return result(cudaSuccess);
}

cudaError_t device_runs() { return result(capability() < 80 ? cudaErrorNoKernelImageForDevice : cudaSuccess); }

cudaError_t allocate_host(void** p, size_t bytes) {
  if (captures()) return result(cudaErrorStreamCaptureUnsupported);
  *p = aligned_alloc(256, (bytes + 255) / 256 * 256 + 256);
  if (*p == nullptr) return result(cudaErrorMemoryAllocation);
  memset(*p, 0xff, bytes);
  state().pinned[static_cast<char*>(*p)] = bytes;
  return result(cudaSuccess);
}

}  // namespace tsr::emulation

using namespace tsr::emulation;

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  *count = devices();
  return result(devices() > 0 ? cudaSuccess : cudaErrorNoDevice);
}
cudaError_t cudaGetDevice(int* device) { return *device = 0, result(devices() > 0 ? cudaSuccess : cudaErrorNoDevice); }
cudaError_t cudaSetDevice(int device) { return result(device < devices() ? cudaSuccess : cudaErrorInvalidDevice); }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device >= devices()) return result(cudaErrorInvalidDevice);
  *properties = {};
  strcpy(properties->name, "emulation on this processor");
  properties->totalGlobalMem = limit();
  properties->major = capability() / 10, properties->minor = capability() % 10, properties->multiProcessorCount = 4;
  return result(cudaSuccess);
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount: *value = 4; break;
    case cudaDevAttrComputeCapabilityMajor: *value = capability() / 10; break;
    case cudaDevAttrComputeCapabilityMinor: *value = capability() % 10; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = int(kSharedBytes); break;
  }
  return result(cudaSuccess);
}
cudaError_t cudaDriverGetVersion(int* version) { return *version = 13000, result(cudaSuccess); }
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 13000, result(cudaSuccess); }
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) { return *total_bytes = limit(), *free_bytes = limit() - state().device_bytes, result(cudaSuccess); }

cudaError_t cudaFree(void* p) {
  if (p == nullptr) return result(cudaSuccess);
  if (captures()) return result(cudaErrorStreamCaptureUnsupported);
  cudaDeviceSynchronize();
  const auto block = state().device.find(static_cast<char*>(p));
  if (block == state().device.end()) return result(cudaErrorInvalidValue);
  state().device_bytes -= block->second;
  TSR_UNPOISON(p, (block->second + 4095) / 4096 * 4096 + 4096);
  state().device.erase(block);
  race::remove_region(p);
  free(p);
  return cudaSuccess;  // destructors run after a failure, too
}
cudaError_t cudaFreeHost(void* p) {
  state().pinned.erase(static_cast<char*>(p));
  free(p);
  return result(cudaSuccess);
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t given) {
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if (bytes == 0) return result(cudaSuccess);
  if ((to_device && !on_device(to, bytes, "cudaMemcpyAsync")) || (from_device && !on_device(from, bytes, "cudaMemcpyAsync"))) return result(cudaErrorInvalidValue);
  const void* const host = to_device ? from : to;
  Stream* const stream = or_default(given);
  const bool pageable = to_device != from_device && block_of(state().pinned, host) == nullptr;
  if (pageable && stream->capture != nullptr) return result(cudaErrorStreamCaptureUnsupported);
  enqueue(stream, [=] { memcpy(to, from, bytes); });
  if (pageable) drain(stream);  // as the driver does, which has no other way
  return result(cudaSuccess);
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  if (captures()) return result(cudaErrorStreamCaptureUnsupported);
  const cudaError_t code = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
  cudaDeviceSynchronize();
  return result(code);
}
cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t stream) {
  if (bytes == 0) return result(cudaSuccess);
  if (!on_device(p, bytes, "cudaMemsetAsync")) return result(cudaErrorInvalidValue);
  enqueue(stream, [=] { memset(p, value, bytes); });
  return result(cudaSuccess);
}
cudaError_t cudaMemset(void* p, int value, size_t bytes) { return cudaMemsetAsync(p, value, bytes, nullptr); }

cudaError_t cudaPeekAtLastError() { return state().error != cudaSuccess ? state().error : state().last; }
cudaError_t cudaGetLastError() {
  const cudaError_t code = cudaPeekAtLastError();
  state().last = cudaSuccess;
  return code;
}
const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorNoDevice: return "cudaErrorNoDevice";
    case cudaErrorLaunchFailure: return "cudaErrorLaunchFailure";
    default: return "cudaError";
  }
}
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureUnmatched: return "the capture was not initiated in this stream";
    case cudaErrorStreamCaptureUnjoined: return "capturing stream has unjoined work";
    case cudaErrorStreamCaptureIsolation: return "dependency created on uncaptured work in another stream";
    case cudaErrorCapturedEvent: return "operation not permitted on an event last recorded in a capturing stream";
    case cudaErrorInvalidValue:
    case cudaErrorLaunchFailure: return state().message.empty() ? "invalid argument" : state().message.c_str();
    default: return cudaGetErrorName(error);
  }
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  state().streams.push_back(*stream = new Stream);
  return result(cudaSuccess);
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, 0); }
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  drain(stream);
  std::vector<Stream*>& all = state().streams;
  for (size_t i = all.size(); i-- > 0;)
    if (all[i] == stream) all.erase(all.begin() + long(i));
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t given) {
  Stream* const stream = or_default(given);
  if (stream->capture != nullptr) return result(cudaErrorStreamCaptureUnsupported);
  drain(stream);
  return result(cudaSuccess);
}
cudaError_t cudaStreamQuery(cudaStream_t given) { return cudaStreamSynchronize(given); }
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* p) {
  void* const there = const_cast<void*>(p);
  if (block_of(state().device, p) != nullptr) *attributes = {cudaMemoryTypeDevice, 0, there, nullptr};
  else if (block_of(state().pinned, p) != nullptr) *attributes = {cudaMemoryTypeHost, 0, there, there};
  else *attributes = {cudaMemoryTypeUnregistered, -1, nullptr, nullptr};
  return result(cudaSuccess);
}
cudaError_t cudaDeviceSynchronize() {
  if (captures()) return result(cudaErrorStreamCaptureUnsupported);
  for (Stream* stream : std::vector<Stream*>(state().streams)) drain(stream);
  return result(cudaSuccess);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return *event = new Event, result(cudaSuccess); }
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  cudaDeviceSynchronize();
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t given) {
  Stream* const stream = or_default(given);
  event->capture = 0;
  if (stream->capture != nullptr) return record(stream, event), result(cudaSuccess);
  event->stream = stream, event->recorded = true, event->done = false;
  enqueue(stream, [event] { event->done = true, event->time = now(); });
  return result(cudaSuccess);
}
cudaError_t cudaStreamWaitEvent(cudaStream_t given, cudaEvent_t event, unsigned) {
  Stream* const stream = or_default(given);
  if (event->capture != 0) {
    const std::shared_ptr<Capture> capture = captures(event->capture);
    if (capture == nullptr || given == nullptr || (stream->capture != nullptr && stream->capture != capture)) return result(cudaErrorCapturedEvent);
    stream->capture = capture;
    return await(stream, *event), result(cudaSuccess);
  }
  if (event->recorded && stream->capture != nullptr) return result(cudaErrorStreamCaptureIsolation);
  if (event->recorded) enqueue(stream, [event] { drain(event->stream, &event->done); });
  return result(cudaSuccess);
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (event->capture != 0) return result(cudaErrorCapturedEvent);
  if (event->recorded) drain(event->stream, &event->done);
  return result(cudaSuccess);
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t first, cudaEvent_t second) {
  if (!first->done || !second->done) return result(cudaErrorNotReady);
  *milliseconds = float(second->time - first->time);
  return result(cudaSuccess);
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  static int number = 0;
  if (stream == nullptr || stream->capture != nullptr) return result(cudaErrorStreamCaptureUnsupported);
  stream->capture = std::make_shared<Capture>(Capture{++number, new Graph, {}, {}});
  stream->capture->lane(stream);
  return result(cudaSuccess);
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  const std::shared_ptr<Capture> capture = stream->capture;
  if (capture == nullptr) return result(cudaErrorStreamCaptureInvalidated);
  for (Stream* const lane : capture->lanes) lane->capture = nullptr;
  const cudaError_t code = capture->lanes[0] != stream ? cudaErrorStreamCaptureUnmatched : capture->joined() ? cudaSuccess : cudaErrorStreamCaptureUnjoined;
  if (code == cudaSuccess) *graph = capture->graph;
  else delete capture->graph;
  return result(code);
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  ++graph->uses;
  *executable = graph;
  return result(cudaSuccess);
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t given) {
  Stream* const stream = or_default(given);
  if (stream->capture != nullptr) return result(cudaErrorStreamCaptureUnsupported);
  const auto run = std::make_shared<Run>(*executable);
  const auto lane = [&](int number) { return number == 0 ? stream : &run->lanes[size_t(number)]; };
  for (const Step& step : executable->steps) {
    bool* const passed = &run->passed[size_t(step.event + 1)];
    if (step.kind == Step::work) enqueue(lane(step.lane), step.run);
    else if (step.kind == Step::record) enqueue(lane(step.lane), [run, passed] { *passed = true; });
    else enqueue(lane(step.lane), [run, passed, on = lane(executable->recorded_by[size_t(step.event)])] { drain(on, passed); });
  }
  return result(cudaSuccess);
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  if (--graph->uses == 0) delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) { return cudaGraphDestroy(executable); }

}  // extern "C"
