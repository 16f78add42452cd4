//! Tests of emulator amqp.
