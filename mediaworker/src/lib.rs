//! A media worker: sockets, str0m and the media graph, on one thread.
