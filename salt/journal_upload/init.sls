# Where the map has a monitor machine, this machine sends it what it logs, and goes on from there
# after a pause. Elsewhere nothing of that is left. Watch: journal-upload-service.
{% import_yaml 'journal_upload/defaults.yaml' as defaults %}
{% set upload = salt['pillar.get']('journal_upload', defaults.journal_upload, merge=True) %}
{% set table = pillar['roles']['monitor'] %}
{% set sender, folder = table.senders, '/etc/journal-upload' %}
{% set unit = '/etc/systemd/system/systemd-journal-upload.service.d' %}

{% if salt['machines.addresses']('monitor') %}
{% set tls = pillar['secrets'][sender.secret] %}
journal-upload-unit:
  file.managed:
    - name: {{ unit }}/stack.conf
    - source: salt://journal_upload/files/journal-upload.service.conf.j2
    - template: jinja
    - makedirs: True
    - mode: '0644'
    - context:
        upload: {{ upload | json }}
        url: {{ ('https://%s.%s:%d' % (
          table.receiver.name, pillar['domain'], pillar['endpoints']['logs']['port'])) | json }}
        certificate: {{ sender.path }}
        ca: {{ sender.trusts[0] }}

journal-upload-package:
  pkg.installed:
    - name: systemd-journal-remote
    - install_recommends: False
    - require:
      - file: base-package-proxy
      - file: journal-upload-unit

journal-upload-certificate:
  file.managed:
    - name: {{ sender.path }}
    - contents: {{ (tls['certificate'] | trim ~ '\n' ~ tls['private_key']) | json }}
    - makedirs: True
    - group: systemd-journal-remote
    - mode: '0640'
    - show_changes: False
    - require:
      - pkg: journal-upload-package

journal-upload-ca:
  file.managed:
    - name: {{ sender.trusts[0] }}
    - contents_pillar: settings:ca_certificate
    - makedirs: True
    - mode: '0644'

journal-upload-loaded:
  service_config.loaded:
    - name: systemd-journal-upload
    - require:
      - file: base-recorder

journal-upload-service:
  service.running:
    - name: systemd-journal-upload
    - enable: True
    - require:
      - pkg: journal-upload-package
    - watch:
      - service_config: journal-upload-loaded
      - file: journal-upload-unit
      - file: journal-upload-certificate
      - file: journal-upload-ca
{% else %}
# The removal of the package leaves it running.
journal-upload-service:
  service.dead:
    - name: systemd-journal-upload
    - enable: False
    - prereq:
      - pkg: journal-upload-package

journal-upload-package:
  pkg.purged:
    - name: systemd-journal-remote

{% for kind, path in [
  ('unit', unit), ('folder', folder), ('state', '/var/lib/private/systemd/journal-upload'),
  ('link', '/var/lib/systemd/journal-upload'),
] %}
journal-upload-{{ kind }}:
  file.absent:
    - name: {{ path }}
    - require:
      - pkg: journal-upload-package
{% endfor %}
{% endif %}
