# Answers questions with Patroni's own code. Reads a list of questions from
# standard input and writes the list of answers, as JSON:
#   ["cluster", {key: value}]          what GET /cluster would say
#   ["environment", {name: value}]     the configuration the variables make
#   ["effective", yml path, {dynamic}] the postgresql section in force
import json
import os
import sys

from patroni.config import Config
from patroni.dcs import (Cluster, ClusterConfig, Failover, Leader, Member,
                         SyncState, TimelineHistory, slot_name_from_member_name)
from patroni.utils import cluster_as_json


def cluster(nodes):
    members = [Member.from_node(1, k[8:], None, v) for k, v in sorted(nodes.items()) if k.startswith('members/')]
    values = dict.fromkeys(Cluster._fields)
    values.update(members=members, workers={}, initialize=nodes.get('initialize'),
                  sync=SyncState.from_node(1, nodes.get('sync')))
    config = {}
    if 'config' in nodes:
        values['config'] = ClusterConfig.from_node(1, nodes['config'])
        config = values['config'].data
    if 'leader' in nodes:
        name = nodes['leader']
        member = next((m for m in members if m.name == name), Member(-1, name, None, {}))
        values['leader'] = Leader(1, None, member)
    if 'history' in nodes:
        values['history'] = TimelineHistory.from_node(1, nodes['history'])
    if 'failover' in nodes:
        values['failover'] = Failover.from_node(1, nodes['failover'])
    status = nodes.get('status', nodes.get('optime/leader'))
    if 'status' in values:
        from patroni.dcs import Status
        values['status'] = Status.from_node(status)
    else:  # 3.0
        try:
            status = json.loads(status)
            values['last_lsn'] = status if isinstance(status, int) else int(status.get('optime') or 0)
        except Exception:
            values['last_lsn'] = 0
    c = Cluster(*values.values())
    out = cluster_as_json(c)
    out['timeline'] = c.timeline
    out['slots'] = {m.name: slot_name_from_member_name(m.name) for m in members}
    return out


def environment(variables):
    for name in [n for n in os.environ if n.startswith('PATRONI')]:
        del os.environ[name]
    os.environ.update(variables)
    return Config._build_environment_configuration()


def effective(path, dynamic):
    config = Config(path, None)
    config.set_dynamic_configuration(dynamic)
    section = config['postgresql']
    section['parameters'] = dict(section['parameters'])
    return section


answer = {'cluster': cluster, 'environment': environment, 'effective': effective}
json.dump([answer[q[0]](*q[1:]) for q in json.load(sys.stdin)], sys.stdout)
