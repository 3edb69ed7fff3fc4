#include "cpu/fair_semaphore.hpp"

namespace agp_edge {

FairSemaphore::Taken FairSemaphore::take(std::optional<Clock::time_point> deadline) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (closed_) return Taken::kClosed;
  if (free_ > 0) {
    --free_;
    return Taken::kYes;
  }
  Waiter self;
  join(self);
  const auto decided = [&] { return self.has_permit || closed_; };
  if (deadline) {
    self.wake.wait_until(lock, *deadline, decided);
  } else {
    self.wake.wait(lock, decided);
  }
  if (self.has_permit) return Taken::kYes;  // give() took it off the list
  leave(self);
  return closed_ ? Taken::kClosed : Taken::kTimedOut;
}

void FairSemaphore::give(int permits) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (; permits > 0 && first_ != nullptr; --permits) {
    Waiter& chosen = *first_;
    leave(chosen);
    chosen.has_permit = true;
    // With the mutex held: without it the waiter, and its condition, could be gone by now.
    chosen.wake.notify_one();
  }
  free_ += permits;
}

int FairSemaphore::waiting() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  int count = 0;
  for (const Waiter* waiter = first_; waiter != nullptr; waiter = waiter->next) ++count;
  return count;
}

void FairSemaphore::close() {
  const std::lock_guard<std::mutex> lock(mutex_);
  closed_ = true;
  for (Waiter* waiter = first_; waiter != nullptr; waiter = waiter->next) {
    waiter->wake.notify_one();
  }
}

void FairSemaphore::join(Waiter& waiter) noexcept {
  waiter.previous = last_;
  (last_ == nullptr ? first_ : last_->next) = &waiter;
  last_ = &waiter;
}

void FairSemaphore::leave(Waiter& waiter) noexcept {
  (waiter.previous == nullptr ? first_ : waiter.previous->next) = waiter.next;
  (waiter.next == nullptr ? last_ : waiter.next->previous) = waiter.previous;
}

}  // namespace agp_edge
