"""Schedules: values that change while a run goes on, as pure functions of its progress. Their public address is `treadle.schedules`."""
