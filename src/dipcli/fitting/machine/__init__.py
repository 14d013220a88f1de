"""The machine that a fit runs on: devices and memory."""
