// A thread per rank that ends a job in which nothing moves on any more. See watchdog.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace mpihpc::watchdog {

struct Options {
    double seconds;        // the limit
    int rank, size;        // in the job
    int slot, slots;       // of this node's ranks, in the order of their ranks
    int node, nodes;       // in the order of their lowest ranks
    int memory;            // a file of node_bytes(slots) zeros that the node's ranks share; -1: alone on the node
    std::string job_file;  // of job_bytes(size, nodes) zeros on a disk that the nodes share; empty: one node
    int stack;             // a file into which the handler of `signal` writes the stacks
    int signal;
};

std::size_t node_bytes(int slots);
std::size_t job_bytes(int size, int nodes);
int free_signal();  // one that nobody handles; 0: none

void start(const Options &options);  // throws std::system_error
void stop();                         // does nothing if it does not run
void phase(const char *text, std::size_t size);
void tick();

}  // namespace mpihpc::watchdog
