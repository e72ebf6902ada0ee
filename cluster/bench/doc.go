// Package bench measures a ringcast cluster of separate processes on one machine: the CPU time and the memory of all
// server processes together, latency, and whether anything was lost, doubled or reordered. Beside it, in the same
// run, it can measure a floor: a relay of one process that does the least any server could, one write for each
// delivery. What a cluster costs over its floor is what its design costs.
//
// The client is one event loop for all connections. It parses frames where the kernel put them, finds sequence number
// and time of sending at fixed places, and allocates nothing for a delivery, so that on a machine shared with the
// servers it takes less CPU time than they do; every report says how much it took.
//
// Latency is from the moment the publisher writes the frame to the moment the loop wakes up to read a delivery, both
// on the monotonic clock of the one process. It includes the time that deliveries wait while the loop reads others.
//
// A message counts as delivered when its frame has arrived whole, with the bytes expected. Each subscriber checks that
// the sequence numbers of each publisher follow one another. Where a topic has several publishers, all its subscribers
// must also have seen them interleaved in one and the same order.
package bench
