// What C++ asks about graphics cards, answered as a machine with one card would: `install` puts these answers in place
// of those that ask the driver, `uninstall` puts the driver's back.
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

static constexpr auto CUDA = c10::DeviceType::CUDA;
static const c10::Device CARD(CUDA, 0);
static const c10::Stream STREAM(c10::Stream::DEFAULT, CARD);

// Makes a card the current one, for a while: there is only one, so nothing is done.
struct Guard final : public c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return CUDA; }
  c10::Device exchangeDevice(c10::Device) const override { return CARD; }
  c10::Device getDevice() const override { return CARD; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override { return STREAM; }
  c10::Stream getDefaultStream(c10::Device) const override { return STREAM; }
  c10::Stream exchangeStream(c10::Stream) const override { return STREAM; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
};

// What there is: a card, cuDNN, one context.
struct Hooks final : public at::CUDAHooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool hasCUDART() const override { return true; }
  bool hasCuDNN() const override { return true; }
  bool hasCuSOLVER() const override { return true; }
  c10::DeviceIndex current_device() const override { return 0; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  bool compiledWithCuDNN() const override { return true; }
  bool supportsDilatedConvolutionWithCuDNN() const override { return true; }
  bool supportsDepthwiseConvolutionWithCuDNN() const override { return true; }
  bool supportsBFloat16ConvolutionWithCuDNNv8() const override { return true; }
  long versionCuDNN() const override { return 91000; }
  long versionRuntimeCuDNN() const override { return 91000; }
  double batchnormMinEpsilonCuDNN() const override { return 0.; }
  int getNumGPUs() const override { return 1; }
};

static void* table = nullptr;                                // the real hooks' functions
static c10::impl::DeviceGuardImplInterface* guard = nullptr; // the real guard

static void** hooks() {
  return reinterpret_cast<void**>(const_cast<at::CUDAHooksInterface*>(&at::detail::getCUDAHooks()));
}
static auto& guards() { return c10::impl::device_guard_impl_registry[static_cast<size_t>(CUDA)]; }

extern "C" void install() {
  static Guard our_guard;
  static Hooks our_hooks;
  if (table) return;
  table = *hooks();
  *hooks() = *reinterpret_cast<void**>(&our_hooks);          // the object keeps its data and gets other functions
  guard = const_cast<c10::impl::DeviceGuardImplInterface*>(guards().load());
  guards().store(&our_guard);
}

extern "C" void uninstall() {
  if (!table) return;
  *hooks() = table;
  table = nullptr;
  guards().store(guard);
}
