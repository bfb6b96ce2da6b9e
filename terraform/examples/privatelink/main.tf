# The whole provider side of a PrivateLink set-up: a database is offered to other accounts through an endpoint service.

terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.0"
    }
  }
}

module "hostname_targets" {
  source = "../.."

  name            = var.name
  code_path       = var.code_path
  database_arns   = var.database_arns
  alarm_topic_arn = var.alarm_topic_arn

  bindings = {
    database = {
      hostname         = var.hostname
      target_group_arn = aws_lb_target_group.database.arn
      # Nobody else registers targets in a target group that is made here.
      ownership = "exclusive"
    }
  }
}

resource "aws_lb" "database" {
  name               = var.name
  load_balancer_type = "network"
  internal           = true
  subnets            = var.subnet_ids
  # An NLB that was created without security groups can never get any.
  security_groups = [aws_security_group.load_balancer.id]
  # Their rules would see the consumers' addresses, which are of networks that are not yours.
  enforce_security_group_inbound_rules_on_private_link_traffic = "off"
  # The database is one address in one zone: without this, the other zones' nodes have no target.
  enable_cross_zone_load_balancing = true
}

resource "aws_lb_target_group" "database" {
  name        = var.name
  target_type = "ip"
  protocol    = "TCP"
  port        = var.port
  vpc_id      = var.vpc_id

  # After a failover the connections that are left lead to the old writer.
  deregistration_delay              = 0
  connection_termination            = true
  load_balancing_cross_zone_enabled = "use_load_balancer_configuration"
  # A database takes the header for a broken handshake.
  proxy_protocol_v2 = false
  # It has no effect over PrivateLink, and must be off for targets outside the VPC.
  preserve_client_ip = false

  health_check {
    protocol            = "TCP"
    port                = "traffic-port"
    interval            = 10
    timeout             = 5
    healthy_threshold   = 2
    unhealthy_threshold = 2
  }

  lifecycle {
    # The function keeps its state in tags, which Terraform would take away at each apply.
    ignore_changes = [tags, tags_all]
  }
}

resource "aws_lb_listener" "database" {
  load_balancer_arn        = aws_lb.database.arn
  protocol                 = "TCP"
  port                     = var.port
  tcp_idle_timeout_seconds = 3600

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.database.arn
  }
}

resource "aws_security_group" "load_balancer" {
  name        = "${var.name}-load-balancer"
  description = "The load balancer ${var.name}"
  vpc_id      = var.vpc_id

  egress {
    description = "The database"
    protocol    = "tcp"
    from_port   = var.port
    to_port     = var.port
    cidr_blocks = ["0.0.0.0/0"]
  }
}

resource "aws_vpc_security_group_ingress_rule" "database" {
  security_group_id            = var.database_security_group_id
  description                  = "The load balancer ${var.name}"
  referenced_security_group_id = aws_security_group.load_balancer.id
  ip_protocol                  = "tcp"
  from_port                    = var.port
  to_port                      = var.port
}

resource "aws_vpc_endpoint_service" "database" {
  network_load_balancer_arns = [aws_lb.database.arn]
  acceptance_required        = var.acceptance_required
  allowed_principals         = var.allowed_principals

  # Before, consumers could not connect yet, but could send requests.
  depends_on = [aws_lb_listener.database]
}

resource "aws_cloudwatch_metric_alarm" "port_allocation" {
  alarm_name          = "${var.name}-port-allocation"
  alarm_description   = "${var.name}: in 3 of the last 5 minutes the load balancer refused connections, because one target has no more than 55,000 of them for each address of the load balancer. Give it more addresses (secondary_ips.auto_assigned.per_subnet), or let clients hold fewer connections."
  namespace           = "AWS/NetworkELB"
  metric_name         = "PortAllocationErrorCount"
  dimensions          = { LoadBalancer = aws_lb.database.arn_suffix }
  statistic           = "Sum"
  period              = 60
  evaluation_periods  = 5
  datapoints_to_alarm = 3
  comparison_operator = "GreaterThanOrEqualToThreshold"
  threshold           = 1
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarm_topic_arn == "" ? [] : [var.alarm_topic_arn]
  ok_actions          = var.alarm_topic_arn == "" ? [] : [var.alarm_topic_arn]
}
