# Units record what they load when they start or reload: salt/_states/service_config.py.
base-recorder:
  file.managed:
    - name: /usr/local/lib/stack/record-loaded
    - source: salt://base/files/record-loaded.sh
    - makedirs: True
    - mode: '0755'
