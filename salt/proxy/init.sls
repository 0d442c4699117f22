# The machines of the VPC fetch packages through Squid on salt-1, which leads to the names in pillar
# `proxy` and to nothing else. It is reloaded when the names change. The master's states include
# this: other machines need it before they have a minion. So nothing here reads their addresses.
# Watch: proxy-reload.
{% import_yaml 'proxy/defaults.yaml' as defaults %}
{% set proxy = salt['pillar.get']('proxy', defaults.proxy, merge=True) %}
{% set port = pillar['endpoints']['proxy']['port'] %}
{# Where alerts go, besides: no other machine has a way there. #}
{% set alerts = (pillar['settings'].get('alerts') or {}).values() %}
{% set receivers = alerts | map('regex_replace', '^https?://([^/:]+).*$', '\\1') | list %}
{% set vpc = pillar['aws']['vpc']['cidr'] %}

include:
  - base.recorder

proxy-package:
  pkg.installed:
    - name: squid
    - install_recommends: False

proxy-config:
  file.managed:
    - name: /etc/squid/squid.conf
    - source: salt://proxy/files/squid.conf.j2
    - template: jinja
    - group: proxy
    - mode: '0640'
    - check_cmd: /usr/sbin/squid -k parse -f
    - tmp_dir: /etc/squid
    - context:
        proxy: {{ dict(proxy, hosts=(proxy.hosts + receivers) | unique | list) | json }}
        name: {{ grains['id'] | json }}
        port: {{ port | json }}
        vpc: {{ vpc | json }}
    - require:
      - pkg: proxy-package

proxy-unit:
  file.managed:
    - name: /etc/systemd/system/squid.service.d/stack.conf
    - source: salt://proxy/files/squid.service.conf.j2
    - template: jinja
    - makedirs: True
    - mode: '0644'
    - context:
        memory_max_megabytes: {{ proxy.memory_max_megabytes | json }}

proxy-unit-loaded:
  service_config.loaded:
    - name: squid
    - require:
      - file: base-recorder

proxy-service:
  service.running:
    - name: squid
    - enable: True
    - require:
      - file: proxy-config
    - watch:
      - service_config: proxy-unit-loaded
      - file: proxy-unit

proxy-config-loaded:
  service_config.loaded:
    - name: squid
    - require:
      - file: base-recorder

proxy-reload:
  service.running:
    - name: squid
    - reload: True
    - require:
      - service: proxy-service
    - watch:
      - service_config: proxy-config-loaded
      - file: proxy-config

# The firewall of an earlier version would keep machines out that are launched before salt-1's own
# highstate.
proxy-reachable:
  firewall.let_in:
    - name: proxy
    - port: {{ port | json }}
    - source: {{ vpc | json }}

# The deploy script brings this to a new machine, before that has a minion.
proxy-of-new-machines:
  file.managed:
    - name: /etc/salt/apt-proxy.conf
    - source: salt://base/files/apt-proxy.conf.j2
    - template: jinja
    - mode: '0644'
    - context:
        url: http://{{ salt['network.ip_addrs'](cidr=vpc) | first }}:{{ port }}
