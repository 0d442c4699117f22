# etcd has a member on this machine, which belongs to the cluster of its role's machines and talks
# to them and to its clients over TLS with certificates on both sides.
# Watch: etcd-service, etcd-voting.
{% import_yaml 'etcd/defaults.yaml' as defaults %}
{% set etcd = salt['pillar.get']('etcd', defaults.etcd, merge=True) %}
{% set certificate = pillar['secrets'][pillar['roles'][salt['role.own']()].certificate.secret] %}

# The package starts a cluster of its own. The unit does not start before a member is prepared.
etcd-unit:
  file.managed:
    - name: /etc/systemd/system/etcd.service.d/stack.conf
    - source: salt://etcd/files/etcd.service.conf
    - makedirs: True
    - mode: '0644'

etcd-package:
  pkg.installed:
    - name: etcd-server
    - install_recommends: False
    - require:
      - file: etcd-unit

etcd-tls:
  file.directory:
    - name: /etc/etcd/tls
    - makedirs: True
    - group: etcd
    - mode: '0750'
    - require:
      - pkg: etcd-package

etcd-ca:
  file.managed:
    - name: /etc/etcd/tls/ca.pem
    - contents_pillar: settings:ca_certificate
    - mode: '0644'
    - require:
      - file: etcd-tls

etcd-certificate:
  file.managed:
    - name: /etc/etcd/tls/certificate.pem
    - contents: {{ certificate['certificate'] | json }}
    - mode: '0644'
    - require:
      - file: etcd-tls

etcd-key:
  file.managed:
    - name: /etc/etcd/tls/key.pem
    - contents: {{ certificate['private_key'] | json }}
    - group: etcd
    - mode: '0640'
    - show_changes: False
    - require:
      - file: etcd-tls

etcd-config:
  file.managed:
    - name: /etc/etcd/stack.env
    - source: salt://etcd/files/stack.env.j2
    - template: jinja
    - mode: '0644'
    - context:
        name: {{ grains['id'] | json }}
        host: {{ salt['etcd_member.host'](grains['id']) | json }}
        address: {{ salt['machines.own_address']() | json }}
        ports:
          client: {{ pillar['endpoints']['etcd-client']['port'] }}
          peer: {{ pillar['endpoints']['etcd-peer']['port'] }}
        etcd: {{ etcd | json }}
    - require:
      - file: etcd-tls

# A member with data keeps its place; the file counts at its first start alone.
etcd-prepared:
  etcd_member.prepared:
    - name: /etc/etcd/initial.env
    - require:
      - pkg: etcd-package
      - file: etcd-ca
      - file: etcd-certificate
      - file: etcd-key

etcd-loaded:
  service_config.loaded:
    - name: etcd

etcd-service:
  service.running:
    - name: etcd
    - enable: True
    - require:
      - etcd_member: etcd-prepared
    - watch:
      - service_config: etcd-loaded
      - file: etcd-unit
      - file: etcd-ca
      - file: etcd-certificate
      - file: etcd-key
      - file: etcd-config

etcd-voting:
  etcd_member.voting:
    - name: {{ grains['id'] | json }}
    - require:
      - service: etcd-service
