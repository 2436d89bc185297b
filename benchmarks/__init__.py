"""What a turn and a stream cost here, against three other ways to serve the same agent. See docs/benchmarks.md."""
