# When the Salt master adds a machine by itself or takes one away. It does so
# only for a role whose number in `settings:machines` of the deployment has a
# `minimum` and a `maximum` (`stackctl scale web=2..4`). It looks once a minute.
growth:
  # Too few, if one of these is so in three looks in a row: requests that wait
  # at the load balancers, and how long they wait; the CPUs' share of time.
  queued: 10
  queue_milliseconds: 500
  busy: 0.8
  hot_looks: 3
  # Too many, if the load would keep one machine less this busy for half an
  # hour, and nothing waits.
  idle: 0.5
  cold_looks: 30
  # Between two changes: a new machine has to serve before its effect is judged.
  cool_down_seconds: 600
