// Runs kernels on the host: see emulator.h.
#include "emulator.h"

#include <setjmp.h>
#include <ucontext.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace emulator {

thread_local Place place;

namespace {

constexpr size_t STACK = 96 << 10;

enum class State { Ready, AtBlock, AtWarp, Done };

// A fiber is entered by swapcontext, which gives it its stack; from then on it and the scheduler jump, as swapcontext
// asks the system for the signal mask each time.
struct Fiber {
  ucontext_t context;
  jmp_buf at;
  bool entered;
  std::unique_ptr<unsigned char[]> stack;
  State state;
  dim3 thread;
};

struct Launch {
  ucontext_t entry;
  jmp_buf scheduler;
  std::vector<Fiber> fibers;
  size_t running = 0;
  std::vector<unsigned char> slots;
  std::vector<uint4> shared;
  Call call = nullptr;
  void** arguments = nullptr;
};
thread_local Launch launch;

std::map<std::string, Call>& kernels() {
  static std::map<std::string, Call> all;
  return all;
}

void body() {
  launch.call(launch.arguments);
  launch.fibers[launch.running].state = State::Done;
  _longjmp(launch.scheduler, 1);
}

// Lets a fiber run until it waits or is done.
void resume(Fiber& fiber) {
  if (_setjmp(launch.scheduler) != 0) return;
  if (fiber.entered) _longjmp(fiber.at, 1);
  fiber.entered = true;
  swapcontext(&launch.entry, &fiber.context);
}

void prepare(Fiber& fiber) {
  if (!fiber.stack) fiber.stack.reset(new unsigned char[STACK]);
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = STACK;
  fiber.context.uc_link = nullptr;
  fiber.state = State::Ready;
  fiber.entered = false;
  makecontext(&fiber.context, body, 0);
}

// Lets those on whose barrier everybody has come go on. Whether anybody does.
bool release(size_t threads) {
  bool any = false;
  auto let_go = [&](size_t from, size_t to, State at) {
    bool all = true, some = false;
    for (size_t i = from; i < to; i++) {
      State state = launch.fibers[i].state;
      all = all && (state == at || state == State::Done);
      some = some || state == at;
    }
    if (!all || !some) return;
    any = true;
    for (size_t i = from; i < to; i++) {
      if (launch.fibers[i].state == at) launch.fibers[i].state = State::Ready;
    }
  };
  for (size_t warp = 0; warp < threads; warp += 32) {
    let_go(warp, std::min(warp + 32, threads), State::AtWarp);
  }
  let_go(0, threads, State::AtBlock);
  return any;
}

// Runs one block. False if its threads wait for each other for ever.
bool run_block(size_t threads) {
  std::memset(static_cast<void*>(launch.shared.data()), 0xA5, launch.shared.size() * sizeof(uint4));
  for (size_t i = 0; i < threads; i++) prepare(launch.fibers[i]);
  size_t done = 0;
  while (done < threads) {
    bool ran = false;
    for (size_t i = 0; i < threads; i++) {
      Fiber& fiber = launch.fibers[i];
      if (fiber.state != State::Ready) continue;
      ran = true;
      launch.running = i;
      place.thread = fiber.thread;
      resume(fiber);
      if (fiber.state == State::Done) done++;
    }
    if (done < threads && !release(threads) && !ran) return false;
  }
  return true;
}

}  // namespace

Kernel::Kernel(const char* name, Call call) { kernels()[name] = call; }

void wait(Barrier barrier) {
  Fiber& self = launch.fibers[launch.running];
  self.state = barrier == Barrier::Block ? State::AtBlock : State::AtWarp;
  if (_setjmp(self.at) == 0) _longjmp(launch.scheduler, 1);
}

unsigned char* slot(unsigned lane) { return launch.slots.data() + (launch.running / 32 * 32 + lane) * 64; }

unsigned char* dynamic_shared() { return reinterpret_cast<unsigned char*>(launch.shared.data()); }

}  // namespace emulator

// 0, or 1 for a kernel that is not there, or 2 where threads wait for each other for ever.
extern "C" int switchback_emulate(const char* name, const unsigned grid[3], const unsigned block[3], size_t shared,
                                  void** arguments) {
  using namespace emulator;
  auto found = kernels().find(name);
  if (found == kernels().end()) return 1;
  size_t threads = size_t(block[0]) * block[1] * block[2];
  if (launch.fibers.size() < threads) launch.fibers.resize(threads);
  launch.slots.assign((threads + 31) / 32 * 32 * 64, 0);
  launch.shared.assign((shared + sizeof(uint4) - 1) / sizeof(uint4), uint4{});
  launch.call = found->second;
  launch.arguments = arguments;
  for (size_t i = 0; i < threads; i++) {
    launch.fibers[i].thread = {unsigned(i % block[0]), unsigned(i / block[0] % block[1]),
                               unsigned(i / block[0] / block[1])};
  }
  place.threads = {block[0], block[1], block[2]};
  place.blocks = {grid[0], grid[1], grid[2]};
  for (unsigned z = 0; z < grid[2]; z++) {
    for (unsigned y = 0; y < grid[1]; y++) {
      for (unsigned x = 0; x < grid[0]; x++) {
        place.block = {x, y, z};
        if (!run_block(threads)) return 2;
      }
    }
  }
  return 0;
}
