# Every port of the stack: the roles that listen on it, and the roles that may connect. Anything else is dropped.
# `*` is every role, `world` is anybody. The machines' firewalls (salt/base) and the security groups (salt/aws) are made
# from this. The Salt master's SSH is also open to the deployment's `settings:operator_cidrs`. The ports of ssh and of
# Salt are their programs' own, and stay as they are.
endpoints:
  ssh: {port: 22, 'on': ['*'], from: [salt]}
  salt-publish: {port: 4505, 'on': [salt], from: ['*']}
  salt-request: {port: 4506, 'on': [salt], from: ['*']}
  postgres: {port: 5432, 'on': [postgres], from: [web]}
  redis: {port: 6379, 'on': [redis], from: [web]}
  airflow: {port: 8080, 'on': [web], from: [lb]}
  http: {port: 80, 'on': [lb], from: [world]}
  https: {port: 443, 'on': [lb], from: [world]}
