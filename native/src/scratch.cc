#include "scratch.h"

#include <algorithm>
#include <mutex>
#include <vector>

namespace stn {
namespace {

constexpr size_t kMostBytesKept = size_t{64} << 20;

struct Kept {
  std::unique_ptr<char[]> data;
  size_t bytes;
};

struct Store {
  std::mutex mutex;
  std::vector<Kept> kept;
  size_t bytes = 0;
};

// Never destroyed: threads may still return memory while the process exits.
Store& TheStore() {
  static Store* store = new Store;
  return *store;
}

}  // namespace

Scratch::Scratch(size_t bytes) : bytes_(bytes) {
  Store& store = TheStore();
  {
    std::lock_guard<std::mutex> lock(store.mutex);
    auto fitting = std::find_if(store.kept.begin(), store.kept.end(), [&](const Kept& kept) {
      return kept.bytes >= bytes && kept.bytes / 2 <= bytes;
    });
    if (fitting != store.kept.end()) {
      data_ = std::move(fitting->data);
      bytes_ = fitting->bytes;
      store.bytes -= bytes_;
      store.kept.erase(fitting);
      return;
    }
  }
  data_ = std::unique_ptr<char[]>(new char[bytes]);
}

Scratch::~Scratch() {
  if (bytes_ > kMostBytesKept) return;
  Store& store = TheStore();
  std::lock_guard<std::mutex> lock(store.mutex);
  // Free the oldest blocks to make room.
  while (store.bytes + bytes_ > kMostBytesKept) {
    store.bytes -= store.kept.front().bytes;
    store.kept.erase(store.kept.begin());
  }
  store.bytes += bytes_;
  store.kept.push_back({std::move(data_), bytes_});
}

}  // namespace stn
